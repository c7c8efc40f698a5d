"""Tasks on anybody's data: the recipe says where they are and what their columns mean."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from peftkit.components import Example, TaskKind
from peftkit.errors import RowError
from peftkit.tasks import templates
from peftkit.tasks.classification import TextClassification
from peftkit.tasks.data import DataTask
from peftkit.tasks.rows import LETTERS, AnswerForm, filled, has, refuse_duplicates, right_choice, text, texts, value

__all__ = ["DistractorGeneration", "MultipleChoice", "TextClassification", "TextGeneration"]

NOWHERE = (0, 0)
"""As the context of a source of which nothing may be cut."""


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
    main: ClassVar[tuple[str, ...]] = ("question",)

    def _fields(self) -> Mapping[str, str]:
        context = {"context": self.context_column} if self.context_column else {}
        return {"question": self.question_column, **context}

    def _group(self, row: Mapping[str, Any]) -> str:
        column = self.group_column or self.context_column
        return text(row, column) if column else ""

    def _columns(self) -> Iterator[tuple[str, str]]:
        yield "question_column", self.question_column
        yield "answer_column", self.answer_column
        if self.context_column:
            yield "context_column", self.context_column
        yield from super()._columns()


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

    def _needed(self, row: Mapping[str, Any]) -> list[str]:
        columns = [column for column in super()._needed(row) if column != "choices"]
        columns += self._choice_columns()
        if self.shuffle_choices:
            columns.append(self.question_column)
        if self.choice_labels_column and "choices" in templates.fields(self._prompt()):
            columns.append(self.choice_labels_column)
        return list(dict.fromkeys(columns))

    def _question(self, row: Mapping[str, Any]) -> Example:
        choices = self._choices(row)
        labels = self._choice_labels(row, len(choices)) if "choices" in templates.fields(self._prompt()) else []
        shown = " ".join(f"{label} - {choice}" for label, choice in zip(labels, choices, strict=False))
        source, context = self._rendered(row, choices=shown)
        return Example(source, choices[0], tuple(dict.fromkeys(choices)), context=context or NOWHERE)

    def encode(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the right choice's text, among those of all its choices.

        Raises:
            RowError: a field is missing or empty, a choice stands twice, or the answer is none of them.
        """
        asked, choices = self._question(row), texts(row, self._choice_columns())
        labels = self._choice_labels(row, len(choices))
        given = value(row, self.answer_column)
        right = right_choice(given, choices, labels, self.answer_is, self.answer_column)
        return replace(asked, target=choices[right], group=self._group(row))

    def _choice_columns(self) -> tuple[str, ...]:
        return self.choices_columns or (self.choices_column,)

    def _choices(self, row: Mapping[str, Any]) -> list[str]:
        """The row's choices, in the order in which they are shown."""
        columns = self._choice_columns()
        choices = texts(row, columns)
        if len(choices) < 2:
            raise RowError(columns[0], f"has {len(choices)} choices, and two are needed")
        if not self.duplicates:
            refuse_duplicates(choices, columns[0])
        if not self.shuffle_choices:
            return choices
        seed = "\n".join([str(self.split_seed), text(row, self.question_column), *sorted(choices)])
        return random.Random(seed).sample(choices, len(choices))  # noqa: S311 - no secret

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
    main: ClassVar[tuple[str, ...]] = ("source",)
    secret: ClassVar[tuple[str, ...]] = ("target_column",)

    def _prompt(self) -> str:
        return self.prompt or "{source}"

    def _columns(self) -> Iterator[tuple[str, str]]:
        if "source" in templates.fields(self._prompt()):
            yield "source_column", self.source_column
        yield "target_column", self.target_column
        yield from super()._columns()

    def _fields(self) -> Mapping[str, str]:
        return {"source": self.source_column}

    def _texts(self) -> list[str]:
        return [*super()._texts(), self.target_column]

    def _question(self, row: Mapping[str, Any]) -> Example:
        source, context = self._rendered(row)
        return Example(source, "", context=context)

    def encode(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the target.

        Raises:
            RowError: a field is missing or empty.
        """
        asked, found = self._question(row), value(row, self.target_column)
        right = [text(row, self.target_column)] if not isinstance(found, list) else texts(row, [self.target_column])
        if not right or not all(map(str.strip, right)):
            raise RowError(self.target_column, "is empty")
        references = tuple(right) if len(right) > 1 else ()
        return replace(asked, target=right[0], references=references, group=self._group(row))


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

    def _texts(self) -> list[str]:
        return [column for column in super()._texts() if column != self.answer_column or not self.choices_column]

    def _listed(self) -> tuple[str, ...]:
        return (self.choices_column,) if self.choices_column else self.distractors_columns or (self.distractors_column,)

    def _needed(self, row: Mapping[str, Any]) -> list[str]:
        columns = [column for column in super()._needed(row) if column != "answer"]
        if self.choices_column and not self._answer_is_written_out(row):
            columns.append(self.choices_column)
        return list(dict.fromkeys([*columns, self.answer_column]))

    def _answer_is_written_out(self, row: Mapping[str, Any]) -> bool:
        """Whether the row's answer is a text and not the label or the number of a choice."""
        if not has(row, self.answer_column) or (self.choices_column and has(row, self.choices_column)):
            return False
        word = str(value(row, self.answer_column)).strip()
        return self.answer_is == "text" or not (word in LETTERS or re.fullmatch(r"-?\d+", word))

    def _answer(self, row: Mapping[str, Any]) -> str:
        if not self.choices_column or self._answer_is_written_out(row):
            return filled(row, self.answer_column)
        found = texts(row, self._listed())
        return found[self._right(row, found)]

    def _right(self, row: Mapping[str, Any], choices: Sequence[str]) -> int:
        given, labels = value(row, self.answer_column), LETTERS[: len(choices)]
        return right_choice(given, choices, labels, self.answer_is, self.answer_column)

    def _question(self, row: Mapping[str, Any]) -> Example:
        source, context = self._rendered(row, answer=self._answer(row))
        return Example(source, "", context=context or NOWHERE)

    def encode(self, row: Mapping[str, Any]) -> Example:
        """The prompt → ``a; b; c``; a semicolon within one of them becomes a comma.

        Raises:
            RowError: a field is missing or empty, or a wrong answer is the right one.
        """
        distractors, column = texts(row, self._listed()), self._listed()[0]
        if self.choices_column:
            del distractors[self._right(row, distractors)]
        answer = self._answer(row)
        if not distractors:
            raise RowError(column, "holds no wrong answers")
        if not self.duplicates and not all(map(str.strip, distractors)):
            raise RowError(column, "holds an empty text")
        if not self.duplicates and answer.strip() in map(str.strip, distractors):
            raise RowError(column, f"holds the right answer, {answer!r}")
        target = "; ".join(each.replace(";", ",").strip() for each in distractors)
        extra = {"answer": answer.replace(";", ",")}
        return replace(self._question(row), target=target, extra=extra, group=self._group(row))
