"""The classification task on anybody's data: a text, or a pair of texts, and one of fixed labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from peftkit.components import Example, TaskKind
from peftkit.errors import InputError, did_you_mean, listed
from peftkit.tasks.data import DataTask
from peftkit.tasks.labels import find_label_names, match_label, read_label, refuse_other_names, refuse_unclear

if TYPE_CHECKING:
    from datasets import DatasetDict


class TextClassification(DataTask):
    """Text → one of fixed labels, on your own data.

    Labels are matched by name. Where the column holds numbers, they are the places of ``label_names``, or of the names
    that the data set has for them. Prompt fields: ``{text}``, ``{text_pair}`` and any column.
    """

    name: Literal["text_classification"] = "text_classification"

    text_column: str = "text"
    """The column of the text; dots go into tables."""
    text_pair_column: str | None = None
    """The column of a second text, for pairs."""
    label_column: str = "label"
    """The column of the label."""
    label_names: tuple[str, ...] = ()
    """The labels' names in the order of their numbers; unset for those that the training rows have."""
    verbalisers: dict[str, str] = Field(default_factory=dict)
    """What stands for a label when it is ranked, by its name; unset for the name."""

    kind: ClassVar[TaskKind] = "classification"
    metrics: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "balanced_accuracy",
        "precision_macro",
        "recall_macro",
        "f1_macro",
        "matthews_correlation",
    )
    selects: ClassVar[str] = "accuracy"
    stratified: ClassVar[str] = "label_column"
    span: ClassVar[str] = "text"
    main: ClassVar[tuple[str, ...]] = ("text",)
    secret: ClassVar[tuple[str, ...]] = ("label_column",)

    @model_validator(mode="after")
    def _labels_can_be_told_apart(self) -> TextClassification:
        names = list(self._names_told())
        if names and (reason := self._verbaliser_error(names)):
            raise ValueError(reason)
        if self.streaming and not names:
            raise ValueError("label_names: streamed rows must not be read to find them; name them")
        return self

    def _verbaliser_error(self, names: Sequence[str]) -> str | None:
        """Why the verbalisers do not go with the labels of these names; None where they do."""
        for name in self.verbalisers:
            if name not in names:
                near = did_you_mean(name, names) or f"; labels: {listed(list(names))}"
                return f"verbalisers: there is no label {name!r}{near}"
        texts: dict[str, str] = {}
        for name in names:
            if not self._verbaliser(name).strip():
                return f"verbalisers: the text of the label {name!r} is empty"
            other = texts.setdefault(self._verbaliser(name), name)
            if other != name:
                return f"two labels have one text, {self._verbaliser(name)!r}: {other!r} and {name!r}"
        if len(set(names)) < len(names):
            twice = next(name for name in names if list(names).count(name) > 1)
            return f"label_names: two labels have one text, {twice!r}"
        return None

    @property
    def labels(self) -> tuple[str, ...]:
        """What is ranked for each label, in the order of their numbers."""
        return tuple(map(self._verbaliser, self._names()))

    def _verbaliser(self, name: str) -> str:
        return self.verbalisers.get(name, name)

    def _names_told(self) -> Sequence[str]:
        return self.label_names

    def _names(self) -> Sequence[str]:
        return self._names_told() or find_label_names(self._source(), self.label_column)[0]

    def load(self) -> DatasetDict:
        find_label_names.cache_clear()  # files may have changed since
        splits = super().load()
        names, option = self._names(), "label_names" if self._names_told() else "the training split"
        refuse_other_names(splits, self.label_column, names, option)
        refuse_unclear(names, self.label_column)
        if reason := self._verbaliser_error(names):
            raise InputError(reason)
        return splits

    def _prompt(self) -> str:
        return self.prompt or ("classify: {text}" + (" {text_pair}" if self.text_pair_column else ""))

    def _columns(self) -> Iterator[tuple[str, str]]:
        yield "text_column", self.text_column
        yield "label_column", self.label_column
        if self.text_pair_column:
            yield "text_pair_column", self.text_pair_column
        yield from super()._columns()

    def _fields(self) -> Mapping[str, str]:
        pair = {"text_pair": self.text_pair_column} if self.text_pair_column else {}
        return {"text": self.text_column, **pair}

    def _question(self, row: Mapping[str, Any]) -> Example:
        source, context = self._rendered(row)
        return Example(source, self.labels[0], self.labels, context=context)

    def encode(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the label's text, among those of all labels.

        Raises:
            RowError: a field is missing or empty, or the label is unknown.
        """
        asked = self._question(row)
        return replace(asked, target=self._verbaliser(self._label(row)), group=self._group(row))

    def _label(self, row: Mapping[str, Any]) -> str:
        numbered = bool(self._names_told()) or find_label_names(self._source(), self.label_column)[1]
        return match_label(read_label(row, self.label_column), self._names(), self.label_column, numbered=numbered)
