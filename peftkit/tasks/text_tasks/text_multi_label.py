"""Multi-label classification of a text, or a pair of texts, on the user's own data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from peftkit.answer_texts.label_sets import SEPARATOR, join_labels, label_extra
from peftkit.components import Example, OptionProblem, TaskKind
from peftkit.components.types import TaskMatch
from peftkit.errors import InputError, RowError, comma_separated
from peftkit.tasks import column_names
from peftkit.tasks.columns import EMPTY, get_value, has_column, short_repr
from peftkit.tasks.labels import (
    check_label_names,
    feature_names,
    label_name,
    match_label,
    missing_column_error,
    natural_sort_key,
)
from peftkit.tasks.sources import split_loading
from peftkit.tasks.sources.answer_columns import ROWS_PER_LABEL, answer_columns, find_delimiter, is_named
from peftkit.tasks.sources.data_sample import Column, DataSample
from peftkit.tasks.sources.data_source import DataSource
from peftkit.tasks.text_tasks.text_task import TextTask

if TYPE_CHECKING:
    from datasets import DatasetDict

YES, NO = ("1", "1.0", "true"), ("0", "0.0", "false")
"""Values of a column of one label, in lower case."""


class TextMultiLabel(TextTask):
    """Text → any number of labels, also none, on your own data.

    Numbers are indices into ``label_names``, or into the label names of the dataset. Prompt fields: ``{text}``,
    ``{text_pair}`` and any column.
    """

    name: Literal["text_multi_label"] = "text_multi_label"

    label_column: str = "labels"
    """Column of the labels: a list of labels or of their numbers, or a text with `label_delimiter`."""
    label_columns: tuple[str, ...] = ()
    """Columns of the labels, if each label has its own column with 1 or 0; their names are the labels."""
    label_delimiter: str | None = Field(default=None, min_length=1)
    """What is between the labels if the label column has texts, such as `;`. An empty text has no labels."""
    label_names: tuple[str, ...] = ()
    """Label names in the order of their numbers; those of the dataset, or the labels of all rows, if unset."""
    no_label: str = Field(default="none", min_length=1)
    """Text that stands for no label where labels are generated."""

    kind: ClassVar[TaskKind] = "multi_label"
    metrics: ClassVar[tuple[str, ...]] = ("multi_label_f1", "exact_set", "unknown_labels")
    selection_metric: ClassVar[str] = "f1_micro"
    instruction: ClassVar[str] = "labels"
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ("label_column", "label_columns")

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes lists of labels, cells with several labels, and columns that say whether a row has a label."""
        names = (*column_names.LABEL_NAMES, *column_names.LABEL_LIST_NAMES)
        lists = [column for column in sample.columns.values() if column.is_list]
        for column in sample.columns.values():
            delimiter = find_delimiter(column)
            texts = cls.recognize_texts(sample, column.name)
            one_list = column.is_list and len(lists) == 1  # several are of words and tags, or of choices
            few = 2 <= column.distinct <= max(2, sample.num_rows // ROWS_PER_LABEL)
            if not texts or not (delimiter or (one_list and few)):
                continue
            score = 0.88 if is_named(column, names) else 0.55
            if delimiter:
                reason = f"{column.name!r} has several labels in a cell, with {delimiter!r} between them"
                yield TaskMatch(score, {**texts, "label_column": column.name, "label_delimiter": delimiter}, reason)
            elif column.name.lower() not in column_names.WORDS_NAMES:
                reason = f"{column.name!r} has lists of {column.distinct} different labels in {sample.num_rows:,} rows"
                yield TaskMatch(score, {**texts, "label_column": column.name}, reason)
        yield from cls._recognize_flags(sample)

    @classmethod
    def _recognize_flags(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes several columns with 1 or 0."""
        answers = answer_columns(sample)
        flags = [answer.name for answer in answers if _has_flags(answer.column)]
        texts = cls.recognize_texts(sample, *flags)
        if len(flags) < 2 or not texts:
            return
        best = max(answer.as_labels for answer in answers)
        named = [answer.name for answer in answers if is_named(answer.column, column_names.LABEL_NAMES)]
        others = any(answer.name not in flags or answer.name in named for answer in answers if answer.as_labels == best)
        reason = f"{comma_separated(flags)} say with 1 or 0 whether a row has the label"
        yield TaskMatch(0.3 if others else 0.55 if len(flags) == 2 else 0.8, {**texts, "label_columns": flags}, reason)

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        yield from super()._without_effect()
        if self.label_columns:
            for option in ("label_column", "label_delimiter", "label_names"):
                yield option, "label_columns has the columns of the labels"

    @field_validator("label_columns", "label_names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(names) == 1:
            raise ValueError("has one label; at least 2 are required")
        return names

    @model_validator(mode="after")
    def _check_labels(self) -> TextMultiLabel:
        configured = self.label_columns or self.label_names
        if configured and (reason := _name_error(configured, self.no_label)):
            raise ValueError(reason)
        if self.streaming and not configured:
            raise ValueError("label_names: required with streaming")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of their numbers."""
        return self.label_columns or self.label_names or self._found_labels()[0]

    @property
    def empty_answer(self) -> str:
        """The text that stands for no label."""
        return self.no_label

    def labels_of_data(self) -> tuple[tuple[str, ...], bool] | None:
        return None if self.label_columns or self.label_names else self._found_labels()

    def _found_labels(self) -> tuple[tuple[str, ...], bool]:
        if recorded := self.recorded_labels:
            return recorded
        if trained := self.trained_of(TextMultiLabel):
            return trained._found_labels()
        skip = self.skips_bad_rows
        return find_labels(self._data_source(), self.label_column, self.label_delimiter, skip_invalid=skip)

    def load(self) -> DatasetDict:
        if not self.is_evaluation_set:
            find_labels.cache_clear()  # files may have changed
        splits = super().load()
        self._check_label_names()
        return splits

    def _check_label_names(self) -> None:
        check_label_names(self.labels, "label_columns" if self.label_columns else self.label_column)
        if reason := _name_error(self.labels, self.no_label):
            raise InputError(reason)

    def _label_problems(self, splits: Mapping[str, Any]) -> Iterator[OptionProblem]:
        try:
            self._check_label_names()
        except InputError as error:
            yield OptionProblem("label_columns" if self.label_columns else "label_column", str(error))

    def answer_columns(self) -> Iterator[tuple[str, str]]:
        for column in self.label_columns:
            yield "label_columns", column
        if not self.label_columns:
            yield "label_column", self.label_column

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the labels as text, in the order of the task's labels.

        Raises:
            RowError: A field is missing or empty, or a label is unknown.
        """
        labels = self.labels
        target = join_labels(self._row_labels(row, labels), labels, self.no_label)
        extra = label_extra(labels, self.no_label)
        return replace(self.make_prompt(row), target=target, extra=extra, group=self.group_of(row))

    def _row_labels(self, row: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
        """Returns the labels of a row."""
        if self.label_columns:
            return [column for column in self.label_columns if _is_set(row, column)]
        numbered = bool(self.label_names) or self._found_labels()[1]
        given = read_labels(row, self.label_column, self.label_delimiter)
        return [match_label(label, labels, self.label_column, numbered=numbered) for label in given]


def _name_error(labels: Sequence[str], no_label: str) -> str:
    """Returns why a name cannot be a label; empty if all can."""
    for label in labels:
        if SEPARATOR.strip() in label:
            return f"the label {label!r} has a comma, which separates labels; rename it"
        if label == no_label:
            return f"no_label: {no_label!r} is one of the labels; choose another text for rows without labels"
    return ""


def _has_flags(column: Column) -> bool:
    """Returns whether the values of a column are 1 or 0."""
    return {str(value).strip().lower() for value in column.values} <= {*YES, *NO}


def _is_set(row: Mapping[str, Any], column: str) -> bool:
    """Returns whether the column of a label says that the row has it.

    Raises:
        RowError: The column does not exist, or is neither 0 nor 1.
    """
    value = get_value(row, column)
    word = str(value).strip().lower()
    if word not in YES + NO:
        raise RowError(column, f"must be 1 or 0, not {short_repr(value)}")
    return word in YES


def read_labels(row: Mapping[str, Any], column: str, delimiter: str | None) -> list[Any]:
    """Returns the labels of a row, as they are in the data; empty if the column is.

    Args:
        row: The row.
        column: Column of the labels; dots select nested fields.
        delimiter: What is between the labels of a text; None if the column has lists.

    Raises:
        RowError: The column does not exist, or has no list or no text.
    """
    try:
        value = get_value(row, column)
    except RowError as error:
        if error.text == EMPTY:
            return []
        raise
    if delimiter is not None:
        if not isinstance(value, str):
            raise RowError(column, f"must be a text with labels, not {short_repr(value)}; leave label_delimiter out")
        return [piece.strip() for piece in value.split(delimiter) if piece.strip()]
    if isinstance(value, str) or not isinstance(value, Sequence):
        remedy = "; set label_delimiter to what is between the labels" if isinstance(value, str) else ""
        raise RowError(column, f"must be a list of labels, not {short_repr(value)}{remedy}")
    for label in value:
        if not isinstance(label, str | int | float) or (isinstance(label, str) and not label.strip()):
            raise RowError(column, f"must be a list of labels, but contains {short_repr(label)}")
    return [*value]


@lru_cache(maxsize=8)
def find_labels(
    source: DataSource, column: str, delimiter: str | None, *, skip_invalid: bool = False
) -> tuple[tuple[str, ...], bool]:
    """Finds the labels of a data source.

    Args:
        source: The data source.
        column: Column of the labels; dots select nested fields.
        delimiter: What is between the labels of a text; None if the column has lists.
        skip_invalid: Whether rows without valid labels are left out.

    Returns:
        The label names of the dataset's features, or else the labels of the rows of all splits in natural order; and
        whether the values are indices of names.

    Raises:
        InputError: The data cannot be read, or the labels of a row cannot.
    """
    loaded = split_loading.load_valid_splits(source)
    if source.main_split not in loaded.splits:
        raise loaded.problems[0].with_traceback(None)
    if names := feature_names(loaded.splits[source.main_split].features, column):
        return names, True
    labels: dict[str, None] = {}
    for split, rows in loaded.splits.items():
        top = column if column in rows.column_names else column.split(".")[0]
        if top not in rows.column_names:
            if split == source.main_split:
                raise missing_column_error(rows, column)
            continue  # reported with the columns
        for index, row in enumerate(rows.select_columns([top])):
            if not has_column(row, column):
                continue
            try:
                labels |= dict.fromkeys(map(label_name, read_labels(row, column, delimiter)))
            except RowError as error:
                if skip_invalid:
                    continue
                raise InputError(f"{split_loading.row_location(source, split, index)}: {error}") from error
    if not labels:
        raise InputError(f"{column}: no row has a label")
    return tuple(sorted(labels, key=natural_sort_key)), False
