"""Anchors and positives, with or without hard negatives, on the user's own data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PrivateAttr

from peftkit.answer_texts.text_normalization import collapse_blanks
from peftkit.components import Example, TaskKind
from peftkit.components.types import TaskMatch
from peftkit.errors import RowError, comma_separated
from peftkit.tasks import column_names
from peftkit.tasks.columns import EMPTY, INTERNAL, get_nonblank_text, get_texts, get_value, has_column
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.sources.answer_columns import answer_columns
from peftkit.tasks.sources.data_sample import DataSample
from peftkit.tasks.sources.row_groups import iterate
from peftkit.tasks.text_tasks.text_task import find_pair

if TYPE_CHECKING:
    from datasets import DatasetDict

POSITIVE = f"{INTERNAL}positive"
"""Column with the number of a pair's positive in the list of its row."""


class TextPairs(DatasetTask):
    """Anchor → its positive among all documents, on your own data; for vectors of texts.

    Rows are pairs, such as a question and a passage, or a sentence and a paraphrase. A row with a list of positives
    stands for a pair with each of them. Rows may have hard negatives: documents that look right and are not. In
    evaluation, the documents of all rows of a split are ranked for each anchor.
    """

    name: Literal["text_pairs"] = "text_pairs"

    anchor_column: str = "anchor"
    """Column of the anchor, such as a query; dots select nested fields."""
    positive_column: str = "positive"
    """Column of the text that belongs to it, or of a list of such texts."""
    negative_columns: tuple[str, ...] = ()
    """Columns of hard negatives: texts, or lists of texts. A row without one has none in that column."""

    kind: ClassVar[TaskKind] = "embedding"
    metrics: ClassVar[tuple[str, ...]] = ("ndcg", "mrr", "recall")
    selection_metric: ClassVar[str] = "ndcg@10"
    required_fields: ClassVar[tuple[str, ...]] = ("anchor",)
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ("positive_column", "negative_columns")

    _rows_of_pairs: Mapping[str, Sequence[int]] | None = PrivateAttr(default=None)
    """The index of the row of each pair, by split, where rows have lists of positives; None before ``load``."""

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes anchors and positives, their hard negatives, and pairs of texts without an answer."""
        anchor, positive = sample.find(column_names.ANCHOR_NAMES), sample.find(column_names.POSITIVE_NAMES)
        lists = None if positive else sample.find(column_names.POSITIVE_NAMES, "is_text_list")
        answered = bool(answer_columns(sample))
        if (anchor is None or not (positive or lists)) and not answered and (pair := find_pair(sample)):
            (anchor, positive), lists, score = pair, None, 0.6
        else:
            positive = positive or lists
            score = 0.95 if positive and positive.lower().startswith("pos") else 0.4 if answered else 0.5
        if anchor is None or positive is None:
            return
        negatives = [each for name, each in sample.columns.items() if column_names.NEGATIVE_NAME.fullmatch(name)]
        usable = [column.name for column in negatives if column.is_text or column.is_text_list]
        options: dict[str, Any] = {"anchor_column": anchor, "positive_column": positive}
        reason = (
            f"{anchor!r} and {f'each text of {positive!r}' if lists else repr(positive)} are texts that belong together"
        )
        if usable:
            options["negative_columns"] = usable
            reason += f", and hard negatives are in {comma_separated(usable)}"
        if unused := [column.name for column in negatives if column.name not in usable]:
            reason += f"; not used, since they have neither texts nor lists of texts: {comma_separated(unused)}"
        yield TaskMatch(score, options, reason)

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        yield from super()._without_effect()
        yield "prompt", "texts are read as they are (see objective.query_prompt and objective.document_prompt)"

    def prompt_template(self) -> str:
        return "{anchor}"

    def column_options(self) -> Iterator[tuple[str, str]]:
        yield "anchor_column", self.anchor_column
        yield "positive_column", self.positive_column
        for column in self.negative_columns:
            yield "negative_columns", column
        yield from super().column_options()

    def field_columns(self) -> Mapping[str, str]:
        return {"anchor": self.anchor_column}

    def text_columns(self) -> list[str]:
        return [self.anchor_column, self.positive_column, *self.negative_columns]

    def grouping_column(self) -> str:
        return self.group_column or self.anchor_column

    def group_of(self, row: Mapping[str, Any]) -> str:
        """Returns the group of a row: its anchor, since rows with the same one are one query."""
        return (
            super().group_of(row) if self.group_column else collapse_blanks(get_nonblank_text(row, self.anchor_column))
        )

    def make_prompt(self, row: Mapping[str, Any]) -> Example:
        """Converts a row to an example whose documents are those that it has, for prediction."""
        return replace(super().make_prompt(row), documents=self._documents(row))

    def load(self) -> DatasetDict:
        """Loads the splits; a row with a list of positives becomes a pair with each of them.

        Raises:
            InputError: As of other tasks.
        """
        splits, rows_of_pairs = super().load(), {}
        for split, rows in splits.items():
            pairs = [(index, number) for index, length in self._count_positives(rows) for number in range(length)]
            if any(number for _, number in pairs):
                rows_of_pairs[split] = [index for index, _ in pairs]
                splits[split] = rows.select(rows_of_pairs[split]).add_column(POSITIVE, [number for _, number in pairs])
        self._rows_of_pairs = rows_of_pairs
        return splits

    def _count_positives(self, rows: Any) -> Iterator[tuple[int, int]]:
        """Yields the index of each row and its number of positives, 1 for an invalid row; nothing of a stream."""
        if hasattr(rows, "__len__"):
            column = self.positive_column
            for index, row in enumerate(iterate(rows, [column, column.split(".", maxsplit=1)[0]])):
                value = get_value(row, column) if has_column(row, column) else None
                yield index, max(1, len(value)) if isinstance(value, list) else 1

    def describe_row(self, split: str, index: int) -> str:
        """Describes the row of a pair by its file, or dataset and split, and its number from 1."""
        if self._rows_of_pairs is None:
            self.load()
        rows = (self._rows_of_pairs or {}).get(split)
        return super().describe_row(split, rows[index] if rows else index)

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The anchor → the positive.

        Raises:
            RowError: A text is missing or empty, or a hard negative is a positive.
        """
        positives = self._positives(row)
        if len(positives) > 1 and self.streaming:
            raise RowError(self.positive_column, "a list of positives cannot be streamed; write a row for each")
        return replace(self.make_prompt(row), target=positives[row.get(POSITIVE, 0)], group=self.group_of(row))

    def _positives(self, row: Mapping[str, Any]) -> list[str]:
        """Returns the positive of a row, or all those of its list."""
        if not isinstance(get_value(row, self.positive_column), list):
            return [get_nonblank_text(row, self.positive_column)]
        positives = get_texts(row, [self.positive_column])
        if not positives:
            raise RowError(self.positive_column, "has no positive")
        if not all(text.strip() for text in positives):
            raise RowError(self.positive_column, EMPTY)
        if len({*map(collapse_blanks, positives)}) < len(positives):
            raise RowError(self.positive_column, "has the same positive twice; keep one")
        return positives

    def _documents(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns the positive of a pair and the hard negatives of its row, as far as it has them."""
        if not has_column(row, self.positive_column):
            return ()
        positives = self._positives(row)
        known = {*map(collapse_blanks, positives)}
        documents = [positives[row.get(POSITIVE, 0)]]
        for column in self.negative_columns:
            if row.get(column, ...) is None or not has_column(row, column):
                continue
            is_list = isinstance(get_value(row, column), list)
            texts = get_texts(row, [column]) if is_list else [get_nonblank_text(row, column)]
            for text in texts:
                if not text.strip():
                    raise RowError(column, EMPTY)
                if collapse_blanks(text) in known:
                    article = "the" if len(known) == 1 else "a"
                    raise RowError(column, f"the hard negative {text!r} is {article} positive of the row; remove it")
                documents.append(text)
        return tuple(documents)
