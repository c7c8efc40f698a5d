"""Classification of a text, or a pair of texts, on the user's own data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from peftkit.components import Example, OptionProblem, TaskKind
from peftkit.components.types import TaskMatch
from peftkit.errors import InputError, RowError, comma_separated, did_you_mean
from peftkit.tasks.columns import short_repr
from peftkit.tasks.data_check import ROWS_PER_FILE
from peftkit.tasks.labels import (
    LabelNames,
    check_label_names,
    check_label_order,
    feature_names,
    find_label_names,
    find_unmatched_label,
    is_ignored,
    map_label,
    match_label,
    read_label,
    train_feature_names,
)
from peftkit.tasks.sources.answer_columns import answer_columns, constant_answer, is_rare, unlabeled_value
from peftkit.tasks.sources.data_sample import DataSample
from peftkit.tasks.sources.split_loading import load_valid_splits
from peftkit.tasks.text_tasks.text_task import TextTask

if TYPE_CHECKING:
    from datasets import DatasetDict

log = logging.getLogger(__name__)


class TextClassification(TextTask):
    """Text → one of a fixed set of labels, on your own data.

    Labels are matched by name. Numbers are indices into ``label_names``, or into the label names of the dataset.
    Prompt fields: ``{text}``, ``{text_pair}`` and any column.
    """

    name: Literal["text_classification"] = "text_classification"

    label_column: str = "label"
    """Column of the label."""
    label_names: tuple[str, ...] = ()
    """Label names in the order of their numbers; the labels of all splits if unset."""
    label_mapping: dict[str, str] = Field(default_factory=dict)
    """Label names by the labels of the data, such as `{"0" = "negative", "1" = "positive"}`; several labels may have
    one name."""
    ignore_labels: tuple[bool | int | float | str, ...] = ()
    """Labels whose rows are left out, such as `[-1]`."""
    verbalisers: dict[str, str] = Field(default_factory=dict)
    """Text that is ranked for a label, by label name; the name itself if unset."""

    kind: ClassVar[TaskKind] = "classification"
    metrics: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "balanced_accuracy",
        "precision_macro",
        "recall_macro",
        "f1_macro",
        "matthews_correlation",
    )
    selection_metric: ClassVar[str] = "accuracy"
    stratify_option: ClassVar[str] = "label_column"
    instruction: ClassVar[str] = "classify"
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ("label_column",)

    @model_validator(mode="after")
    def _check_labels(self) -> TextClassification:
        names = list(self.configured_label_names())
        if names and (reason := self._verbaliser_error(names)):
            raise ValueError(reason)
        if self.streaming and not names:
            raise ValueError("label_names: required with streaming")
        return self

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes columns with few different values; of several, each."""
        answers = [answer for answer in answer_columns(sample) if answer.as_labels]
        for answer in answers:
            texts = cls.recognize_texts(sample, answer.name)
            if not texts:
                continue
            options: dict[str, Any] = {**texts, "label_column": answer.name}
            reason, score = answer.describe_labels(), answer.as_labels
            unlabeled, may_be_label = unlabeled_value(answer.column)
            if unlabeled is not None:
                ignored = f"{reason}, of which {unlabeled!r} marks rows without a label"
                rare = is_rare(answer.column, unlabeled)
                less = 0.1 if may_be_label and not rare else 0.0
                yield TaskMatch(score - less, {**options, "ignore_labels": [unlabeled]}, ignored)
                if not may_be_label:
                    continue
                score, reason = score - (0.1 if rare else 0.0), f"{reason}, of which {unlabeled!r} is a label"
            yield TaskMatch(score, options, reason)
        if not answers and (constant := constant_answer(sample)):
            value = short_repr(constant.values[0])
            raise InputError(
                f"{constant.name!r} has the value {value} in all rows that were read, so there is nothing to classify; "
                "add rows with other labels, or leave the column out"
            )

    def _verbaliser_error(self, names: Sequence[str]) -> str | None:
        """Returns what is wrong with the verbalisers of these labels; None if they are valid."""
        for name in self.verbalisers:
            if name not in names:
                near = did_you_mean(name, names) or f"; labels: {comma_separated(list(names))}"
                return f"verbalisers: unknown label {name!r}{near}"
        texts: dict[str, str] = {}
        for name in names:
            if not self.verbaliser(name).strip():
                return f"verbalisers: the text of the label {name!r} is empty"
            other = texts.setdefault(self.verbaliser(name), name)
            if other != name:
                return f"verbalisers: the labels {other!r} and {name!r} have the same text {self.verbaliser(name)!r}"
        if len(set(names)) < len(names):
            repeated = next(name for name in names if list(names).count(name) > 1)
            return f"label_names: the label {repeated!r} occurs twice"
        return None

    @property
    def labels(self) -> tuple[str, ...]:
        """The text that is ranked for each label, in the order of their numbers."""
        return tuple(map(self.verbaliser, self._label_names()))

    def verbaliser(self, name: str) -> str:
        """Returns the text that is ranked for a label."""
        return self.verbalisers.get(name, name)

    def configured_label_names(self) -> Sequence[str]:
        """Returns the label names in the order of their numbers; empty to take those of the training rows."""
        return self.label_names

    def _label_names(self) -> Sequence[str]:
        return self.configured_label_names() or self._found_label_names().names

    def labels_of_data(self) -> tuple[tuple[str, ...], bool] | None:
        if self.configured_label_names():
            return None
        names_of_data = self._found_label_names()
        return names_of_data.names, names_of_data.numbered

    def _found_label_names(self) -> LabelNames:
        if recorded := self.recorded_labels:
            return LabelNames(*recorded)
        if trained := self.trained_of(TextClassification):
            return replace(trained._found_label_names(), only_in={})
        return find_label_names(
            self._data_source(),
            self.label_column,
            skip_invalid=self.skips_bad_rows,
            mapping=tuple(self.label_mapping.items()),
            ignored=self.ignore_labels,
        )

    @property
    def ignores_rows(self) -> bool:
        return bool(self.ignore_labels)

    def is_ignored(self, row: Mapping[str, Any]) -> bool:
        if not self.ignore_labels:
            return False
        try:
            label = read_label(row, self.label_column)
        except RowError:  # invalid, which is another matter
            return False
        return any(is_ignored(spelling, self.ignore_labels) for spelling in self._spellings_of(label))

    def _spellings_of(self, label: Any) -> list[Any]:
        """Returns a label, and its name if it is a number of the dataset's label names."""
        names = self._feature_names()
        return [label, names[label]] if type(label) is int and 0 <= label < len(names) else [label]

    def _feature_names(self) -> Sequence[str]:
        if trained := self.trained_of(TextClassification):
            return trained._feature_names()
        return train_feature_names(self._data_source(), self.label_column)

    def load(self) -> DatasetDict:
        if not self.is_evaluation_set:  # files may have changed
            find_label_names.cache_clear()
            find_unmatched_label.cache_clear()
            train_feature_names.cache_clear()
        splits = super().load()
        self._check_label_names(splits)
        for text in self._labels_without_training_rows():
            log.warning("%s", text)
        return splits

    def _labels_without_training_rows(self) -> Iterator[str]:
        """Yields a notice of each label that no training row has."""
        if self.configured_label_names():
            return
        names_of_data = self._found_label_names()
        known = [name for name in names_of_data.names if name not in names_of_data.only_in]
        for name, split in names_of_data.only_in.items():
            near = did_you_mean(name, known)
            yield f"{self.label_column}: no training row has the label {name!r} of split {split!r}{near}"

    def _check_label_names(self, splits: Mapping[str, Any]) -> None:
        names, origin = self._label_names(), "label_names" if self.configured_label_names() else "the training split"
        ordered = self._feature_names() if self.label_mapping or self.ignore_labels else names
        check_label_order(splits, self.label_column, ordered, origin)
        self._check_named_labels()
        check_label_names(names, self.label_column)
        if reason := self._verbaliser_error(names):
            raise InputError(reason)

    def _check_named_labels(self) -> None:
        """Check that each label that an option names is in some row; those of an evaluation set may be in others."""
        if self.is_evaluation_set:
            return
        for option, entries in (("label_mapping", tuple(self.label_mapping)), ("ignore_labels", self.ignore_labels)):
            if problem := find_unmatched_label(self._data_source(), self.label_column, entries):
                raise InputError(f"{option}: {problem}")

    def _label_problems(self, splits: Mapping[str, Any]) -> Iterator[OptionProblem]:
        try:
            if self._knows_all_labels():
                self._check_label_names(splits)
                for text in self._labels_without_training_rows():
                    yield OptionProblem("label_column", text, is_error=False)
            elif self._data_source().main_split in splits:
                self._label_names()
                text = f"only the first {ROWS_PER_FILE:,} rows of each file are read; labels are not compared"
                yield OptionProblem("label_column", text, is_error=False)
        except InputError as error:
            yield OptionProblem("label_column", str(error))

    def _knows_all_labels(self) -> bool:
        """Returns whether the label names are configured, or those of all rows."""
        if self.configured_label_names():
            return True
        if trained := self.trained_of(TextClassification):
            return trained._knows_all_labels()
        loaded = load_valid_splits(self._data_source())
        main = self._data_source().main_split
        if main not in loaded.splits:
            return False
        named = feature_names(loaded.splits[main].features, self.label_column)
        return bool(named) or not {*loaded.origins.values()} & loaded.cut

    def _row_check(self) -> Callable[[Mapping[str, Any]], object]:
        try:
            if self._knows_all_labels() and self._label_names():
                return self.to_example
        except InputError:  # reported with the labels
            pass

        def check(row: Mapping[str, Any]) -> None:
            self.render_prompt(row)
            read_label(row, self.label_column)
            self.group_of(row)

        return check

    def answer_columns(self) -> Iterator[tuple[str, str]]:
        yield "label_column", self.label_column

    def make_prompt(self, row: Mapping[str, Any]) -> Example:
        return replace(super().make_prompt(row), target=self.labels[0], candidates=self.labels)

    def source_of(self, row: Mapping[str, Any]) -> str:
        return super().make_prompt(row).source  # without the labels, which are those of all rows

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the text of the label, one of all labels.

        Raises:
            RowError: A field is missing or empty, or the label is unknown.
        """
        prompt = self.make_prompt(row)
        return replace(prompt, target=self.verbaliser(self._label(row)), group=self.group_of(row))

    def _label(self, row: Mapping[str, Any]) -> str:
        label, configured = read_label(row, self.label_column), bool(self.configured_label_names())
        if self.label_mapping or self.ignore_labels:
            spellings = self._spellings_of(label)
            mapped = ((spelling, map_label(spelling, self.label_mapping)) for spelling in spellings)
            default = label if configured else spellings[-1]
            label = next((name for spelling, name in mapped if name is not spelling), default)
        numbered = configured or self._found_label_names().numbered
        return match_label(label, self._label_names(), self.label_column, numbered=numbered)
