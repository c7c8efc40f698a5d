"""Tasks on anybody's data: the recipe says where they are and what their columns mean."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from peftkit.components import Example, TaskKind
from peftkit.errors import InputError, RowError, did_you_mean, listed
from peftkit.tasks import sources
from peftkit.tasks.data import DataTask
from peftkit.tasks.rows import LETTERS, AnswerForm, refuse_duplicates, right_choice, text, texts, value

if TYPE_CHECKING:
    from datasets import DatasetDict


NOWHERE = (0, 0)
"""As the context of a source of which nothing may be cut."""


class TextClassification(DataTask):
    """Text → one of fixed labels, on your own data.

    Labels are told by name. Where the column holds numbers, they are the places of ``label_names``, or of the names
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

    def encode(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the label's text, among those of all labels.

        Raises:
            RowError: a field is missing or empty, or the label is unknown.
        """
        known = {"text": text(row, self.text_column)}
        if self.text_pair_column:
            known["text_pair"] = text(row, self.text_pair_column)
        source, context = self._rendered(row, known)
        return Example(source, self._verbaliser(self._label(row)), self.labels, context=context)

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


class _WithChoices(DataTask):
    """What tasks on questions with choices share."""

    question_column: str = "question"
    """The column of the question; dots go into tables."""
    context_column: str | None = None
    """The column of a text that the question is about: what is shortened where the prompt is too long."""
    answer_column: str = "answer"
    """The column that says which choice is right."""

    duplicates: ClassVar[bool] = False
    """Whether choices may stand twice, as in some published data: then they are right together, or wrong together."""
    span: ClassVar[str] = "context"

    def _known(self, row: Mapping[str, Any], **more: str) -> dict[str, str]:
        known = {"question": text(row, self.question_column), **more}
        if self.context_column:
            known["context"] = text(row, self.context_column)
        return known

    def _columns(self) -> Iterator[tuple[str, str]]:
        yield "question_column", self.question_column
        yield "answer_column", self.answer_column
        if self.context_column:
            yield "context_column", self.context_column


class MultipleChoice(_WithChoices):
    """Question → one of its own choices, on your own data.

    The answer's column holds a label of a choice (A, B, … where the data have none), its text, or, as ``answer_is``
    must say, its number.
    Prompt fields: ``{question}``, ``{choices}`` (as ``A - … B - …``), ``{context}`` and any column.
    """

    name: Literal["multiple_choice"] = "multiple_choice"

    choices_column: str = "choices"
    """The column that holds the list of choices, such as `choices.text`."""
    choices_columns: tuple[str, ...] = ()
    """The columns of the choices, where each has one of its own."""
    choice_labels_column: str | None = None
    """The column that holds the choices' labels, such as `choices.label`; unset for A, B, …."""
    answer_is: AnswerForm = "auto"
    """What the answer's column holds: a choice's `label`, its `text`, its number from 0 (`index`) or from 1
    (`number`); `auto` takes the label or text that fits, and refuses numbers and what could be two."""
    shuffle_choices: bool = False
    """Puts each row's choices into an order drawn from its question and `split_seed`: needed where the right one always
    stands at one place, as where it has a column of its own."""

    kind: ClassVar[TaskKind] = "multiple_choice"
    secret: ClassVar[tuple[str, ...]] = ("answer_column",)
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    selects: ClassVar[str] = "accuracy"

    @model_validator(mode="after")
    def _no_place_tells_the_answer(self) -> MultipleChoice:
        if self.answer_column in self.choices_columns and not self.shuffle_choices:
            raise ValueError(
                f"choices_columns: {self.answer_column!r} is right in every row, so that its place would tell the "
                "answer; set shuffle_choices = true"
            )
        return self

    def _prompt(self) -> str:
        context = " context: {context}" if self.context_column else ""
        return self.prompt or "question: {question} choices: {choices}" + context

    def _columns(self) -> Iterator[tuple[str, str]]:
        yield from super()._columns()
        for column in self.choices_columns:
            yield "choices_columns", column
        if not self.choices_columns:
            yield "choices_column", self.choices_column
        if self.choice_labels_column:
            yield "choice_labels_column", self.choice_labels_column

    def encode(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the right choice's text, among those of all its choices.

        Raises:
            RowError: a field is missing or empty, a choice stands twice, or the answer is none of them.
        """
        choices, right = self._choices(row)
        labels = self._choice_labels(row, len(choices))
        shown = " ".join(f"{label} - {choice}" for label, choice in zip(labels, choices, strict=True))
        source, context = self._rendered(row, self._known(row, choices=shown))
        return Example(source, choices[right], tuple(dict.fromkeys(choices)), context=context or NOWHERE)

    def _choices(self, row: Mapping[str, Any]) -> tuple[list[str], int]:
        columns = self.choices_columns or (self.choices_column,)
        choices = texts(row, columns)
        if len(choices) < 2:
            raise RowError(columns[0], f"has {len(choices)} choices, and two are needed")
        if not self.duplicates:
            refuse_duplicates(choices, columns[0])
        labels = self._choice_labels(row, len(choices))
        given = value(row, self.answer_column)
        right = right_choice(given, choices, labels, self.answer_is, self.answer_column)
        if self.shuffle_choices:
            seed = "\n".join([str(self.split_seed), text(row, self.question_column), *sorted(choices)])
            order = random.Random(seed).sample(range(len(choices)), len(choices))  # noqa: S311 - no secret
            choices, right = [choices[i] for i in order], order.index(right)
        return choices, right

    def _choice_labels(self, row: Mapping[str, Any], number: int) -> list[str]:
        if not self.choice_labels_column:
            return [*LETTERS[:number], *map(str, range(len(LETTERS), number))]
        labels = texts(row, [self.choice_labels_column])
        if len(labels) != number:
            raise RowError(self.choice_labels_column, f"has {len(labels)} labels for {number} choices")
        return labels


class TextGeneration(DataTask):
    """Text → text, on your own data.

    Prompt fields: ``{source}`` and any column. A list of targets is the right texts, of which the first is learnt.
    """

    name: Literal["text_generation"] = "text_generation"

    source_column: str = "source"
    """The column of what is read; dots go into tables."""
    target_column: str = "target"
    """The column of what is to be written: a text, or a list of right texts."""

    kind: ClassVar[TaskKind] = "generation"
    metrics: ClassVar[tuple[str, ...]] = ("rouge", "bleu", "chrf", "exact_match")
    selects: ClassVar[str] = "rougeL"
    span: ClassVar[str] = "source"
    secret: ClassVar[tuple[str, ...]] = ("target_column",)

    def _prompt(self) -> str:
        return self.prompt or "{source}"

    def _columns(self) -> Iterator[tuple[str, str]]:
        if "source" in self._prompt():
            yield "source_column", self.source_column
        yield "target_column", self.target_column

    def encode(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the target.

        Raises:
            RowError: a field is missing or empty.
        """
        known = {"source": text(row, self.source_column)} if "{source}" in self._prompt() else {}
        source, context = self._rendered(row, known)
        found = value(row, self.target_column)
        right = [text(row, self.target_column)] if not isinstance(found, list) else texts(row, [self.target_column])
        if not right or not right[0].strip():
            raise RowError(self.target_column, "is empty")
        return Example(source, right[0], references=tuple(right) if len(right) > 1 else (), context=context)


class DistractorGeneration(_WithChoices):
    """Question and right answer → wrong answers that are plausible, on your own data.

    The answer's column holds its text; with ``choices_column`` it says which of the choices is right, and the others
    are the wrong answers. Prompt fields: ``{answer}``, ``{question}``, ``{context}`` and any column.
    """

    name: Literal["distractor_generation"] = "distractor_generation"

    distractors_column: str = "distractors"
    """The column that holds the list of wrong answers."""
    distractors_columns: tuple[str, ...] = ()
    """Their columns, where each has one of its own."""
    choices_column: str | None = None
    """The column of all choices, the right one among them, for data that have no column of the wrong ones."""
    answer_is: AnswerForm = "auto"
    """What the answer's column holds then, as for `multiple_choice`."""

    kind: ClassVar[TaskKind] = "generation"
    metrics: ClassVar[tuple[str, ...]] = (
        "distractor_assignment",
        "distractor_match",
        "distractor_distinctness",
        "answer_leakage",
        "distinct",
        "bleu",
        "rouge",
    )
    selects: ClassVar[str] = "distractor_soft"
    secret: ClassVar[tuple[str, ...]] = ("distractors_column", "distractors_columns", "choices_column")

    @model_validator(mode="after")
    def _answer_is_said_of_choices(self) -> DistractorGeneration:
        if self.choices_column is None and self.answer_is != "auto":
            raise ValueError("answer_is: says which choice is right; name them with choices_column")
        return self

    def _prompt(self) -> str:
        context = " context: {context}" if self.context_column else ""
        return self.prompt or "answer: {answer} question: {question}" + context

    def _columns(self) -> Iterator[tuple[str, str]]:
        yield from super()._columns()
        option = "distractors_columns" if self.distractors_columns else "distractors_column"
        for column in self._listed():
            yield "choices_column" if self.choices_column else option, column

    def _listed(self) -> tuple[str, ...]:
        return (self.choices_column,) if self.choices_column else self.distractors_columns or (self.distractors_column,)

    def encode(self, row: Mapping[str, Any]) -> Example:
        """The prompt → ``a; b; c``; a semicolon within one of them becomes a comma.

        Raises:
            RowError: a field is missing or empty, or a wrong answer is the right one.
        """
        answer, distractors, column = self._parts(row)
        if not distractors:
            raise RowError(column, "holds no wrong answers")
        if not self.duplicates and answer.strip() in map(str.strip, distractors):
            raise RowError(column, f"holds the right answer, {answer!r}")
        source, context = self._rendered(row, self._known(row, answer=answer))
        target = "; ".join(each.replace(";", ",").strip() for each in distractors)
        return Example(source, target, extra={"answer": answer.replace(";", ",")}, context=context or NOWHERE)

    def _parts(self, row: Mapping[str, Any]) -> tuple[str, list[str], str]:
        """The right answer, the wrong ones, and the column of these."""
        columns = self._listed()
        found = texts(row, columns)
        if not self.choices_column:
            return text(row, self.answer_column), found, columns[0]
        given, labels = value(row, self.answer_column), LETTERS[: len(found)]
        right = right_choice(given, found, labels, self.answer_is, self.answer_column)
        return found[right], found[:right] + found[right + 1 :], columns[0]
