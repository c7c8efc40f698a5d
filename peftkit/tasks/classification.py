"""The classification task on anybody's data: a text, or a pair of texts, and one of fixed labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from peftkit.components import Example, TaskKind
from peftkit.errors import InputError, RowError, did_you_mean, listed
from peftkit.tasks import sources
from peftkit.tasks.data import DataTask
from peftkit.tasks.rows import value

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
    secret: ClassVar[tuple[str, ...]] = ("label_column",)

    @model_validator(mode="after")
    def _labels_can_be_told_apart(self) -> TextClassification:
        names = list(self._names_told())
        unknown = [name for name in self.verbalisers if names and name not in names]
        if unknown:
            raise ValueError(f"verbalisers: there is no label {unknown[0]!r}{did_you_mean(unknown[0], names)}")
        told = [self._verbaliser(name) for name in names]
        if len(set(told)) < len(told):
            raise ValueError("two labels have one text")
        if self.streaming and not names:
            raise ValueError("label_names: streamed rows must not be read to find them; name them")
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """What is ranked for each label, in the order of their numbers."""
        return tuple(map(self._verbaliser, self._names()))

    def _verbaliser(self, name: str) -> str:
        return self.verbalisers.get(name, name)

    def _names_told(self) -> Sequence[str]:
        return self.label_names

    def _names(self) -> Sequence[str]:
        return self._names_told() or _label_names(self._source(), self.label_column)[0]

    def load(self) -> DatasetDict:
        _label_names.cache_clear()  # files may have changed since
        return super().load()

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
        given, names = value(row, self.label_column), self._names()
        numbered = bool(self._names_told()) or _label_names(self._source(), self.label_column)[1]
        if numbered and isinstance(given, int) and not isinstance(given, bool):
            if 0 <= given < len(names):
                return names[given]
            raise RowError(self.label_column, f"the label {given} is no number of {len(names)} labels, from 0")
        if str(given) not in names:
            near = did_you_mean(str(given), names)
            raise RowError(self.label_column, f"unknown label {given!r}{near}; labels: {listed(list(names))}")
        return str(given)


@lru_cache(maxsize=8)
def _label_names(source: sources.Source, column: str) -> tuple[tuple[str, ...], bool]:
    """The names that the data have for the labels, or else the values of the training rows, sorted.

    Also whether the column holds the names' numbers.
    """
    train: Any = sources.read(source).splits["train"]
    feature = (train.features or {}).get(column)
    names = getattr(feature, "names", None)
    if names:
        return tuple(names), True
    if column not in train.column_names:
        raise InputError(f"there is no column {column!r}; the training rows have {listed(train.column_names)}")
    found = {each for each in train.unique(column) if each is not None}
    return tuple(map(str, sorted(found, key=lambda each: (str(type(each)), each)))), False
