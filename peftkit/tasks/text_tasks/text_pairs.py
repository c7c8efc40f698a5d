"""Anchors and positives, with or without hard negatives, on the user's own data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from peftkit.components import Example, TaskKind
from peftkit.components.types import TaskMatch
from peftkit.errors import InputError, RowError, comma_separated
from peftkit.tasks import column_names
from peftkit.tasks.columns import EMPTY, get_nonblank_text, get_texts, get_value, has_column
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.sources.answer_columns import answer_columns
from peftkit.tasks.sources.data_sample import DataSample
from peftkit.tasks.text_tasks.text_task import find_pair
from peftkit.text_normalization import collapse_blanks


class TextPairs(DatasetTask):
    """Anchor → its positive among all documents, on your own data; for vectors of texts.

    Rows are pairs, such as a question and a passage, or a sentence and a paraphrase. They may have hard negatives:
    documents that look right and are not. In evaluation, the documents of all rows of a split are ranked for each
    anchor.
    """

    name: Literal["text_pairs"] = "text_pairs"

    anchor_column: str = "anchor"
    """Column of the anchor, such as a query; dots select nested fields."""
    positive_column: str = "positive"
    """Column of the text that belongs to it."""
    negative_columns: tuple[str, ...] = ()
    """Columns of hard negatives: texts, or lists of texts. A row without one has none in that column."""

    kind: ClassVar[TaskKind] = "embedding"
    metrics: ClassVar[tuple[str, ...]] = ("ndcg", "mrr", "recall")
    selection_metric: ClassVar[str] = "ndcg@10"
    required_fields: ClassVar[tuple[str, ...]] = ("anchor",)
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ("positive_column", "negative_columns")

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes anchors and positives, their hard negatives, and pairs of texts without an answer."""
        anchor, positive = sample.find(column_names.ANCHOR_NAMES), sample.find(column_names.POSITIVE_NAMES)
        answered = bool(answer_columns(sample))
        score = 0.95 if positive and positive.lower().startswith("pos") else 0.4 if answered else 0.5
        if (anchor is None or positive is None) and not answered and (pair := find_pair(sample)):
            (anchor, positive), score = pair, 0.6
        if anchor is None or positive is None:
            if anchor and (lists := sample.find(column_names.POSITIVE_NAMES, "is_text_list")):
                raise InputError(f"{lists!r} has lists of texts, but a row has one positive; write a row for each")
            return
        negatives = [each for name, each in sample.columns.items() if column_names.NEGATIVE_NAME.fullmatch(name)]
        usable = [column.name for column in negatives if column.is_text or column.is_text_list]
        options: dict[str, Any] = {"anchor_column": anchor, "positive_column": positive}
        reason = f"{anchor!r} and {positive!r} are texts that belong together"
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

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The anchor → the positive.

        Raises:
            RowError: A text is missing or empty, or a hard negative is the positive.
        """
        positive = get_nonblank_text(row, self.positive_column)
        return replace(self.make_prompt(row), target=positive, group=self.group_of(row))

    def _documents(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns the positive and the hard negatives of a row, as far as it has them."""
        if not has_column(row, self.positive_column):
            return ()
        positive = get_nonblank_text(row, self.positive_column)
        documents = [positive]
        for column in self.negative_columns:
            if row.get(column, ...) is None or not has_column(row, column):
                continue
            is_list = isinstance(get_value(row, column), list)
            texts = get_texts(row, [column]) if is_list else [get_nonblank_text(row, column)]
            for text in texts:
                if not text.strip():
                    raise RowError(column, EMPTY)
                if collapse_blanks(text) == collapse_blanks(positive):
                    reason = f"the hard negative {text!r} is the positive of the row; remove it"
                    raise RowError(column, reason)
                documents.append(text)
        return tuple(documents)
