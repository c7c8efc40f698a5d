"""Questions with choices, and their wrong answers, on the user's own data."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from peftkit.components import Example, TaskKind
from peftkit.components.types import TaskMatch
from peftkit.errors import RowError
from peftkit.tasks import column_names, prompt_templates
from peftkit.tasks.columns import (
    LETTERS,
    AnswerFormat,
    check_choices,
    get_nonblank_text,
    get_text,
    get_texts,
    get_value,
    has_column,
    match_choice,
)
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.sources.data_sample import DataSample

NO_SPAN = (0, 0)
"""The truncatable span of a prompt that must not be truncated."""


class _QuestionTask(DatasetTask):
    """Base class of tasks with questions and choices."""

    question_column: str = "question"
    """Column of the question; dots select nested fields."""
    context_column: str | None = None
    """Column of a text that the question refers to; it is truncated if the prompt is too long."""
    answer_column: str = "answer"
    """Column of the answer."""

    duplicates: ClassVar[bool] = False
    """Whether choices may be repeated, as in some published data; equal choices count as one."""
    truncatable_field: ClassVar[str] = "context"
    required_fields: ClassVar[tuple[str, ...]] = ("question",)
    used_fields: ClassVar[tuple[str, ...]] = ("question", "context")  # for shuffling and as groups

    def field_columns(self) -> Mapping[str, str]:
        context = {"context": self.context_column} if self.context_column else {}
        return {"question": self.question_column, **context}

    def grouping_column(self) -> str | None:
        return self.group_column or self.context_column

    def column_options(self) -> Iterator[tuple[str, str]]:
        yield "question_column", self.question_column
        yield "answer_column", self.answer_column
        if self.context_column:
            yield "context_column", self.context_column
        yield from super().column_options()


class MultipleChoice(_QuestionTask):
    """Question → one of its choices, on your own data.

    The answer column has the label of a choice (A, B, … by default) or its text, or its number with ``answer_is``.
    Prompt fields: ``{question}``, ``{choices}`` (as ``A - … B - …``), ``{context}`` and any column.
    """

    name: Literal["multiple_choice"] = "multiple_choice"

    choices_column: str = "choices"
    """Column with the list of choices, such as `choices.text`."""
    choices_columns: tuple[str, ...] = ()
    """Columns of the choices, if each choice has its own column."""
    choice_labels_column: str | None = None
    """Column with the list of labels, such as `choices.label`; A, B, … if unset."""
    answer_is: AnswerFormat = "auto"
    """Content of the answer column: the `label` or `text` of a choice, or its number from 0 (`index`) or from 1
    (`number`). `auto` accepts a label or text, and rejects numbers and ambiguous answers."""
    shuffle_choices: bool = False
    """Whether to shuffle the choices of each row, seeded by its question and `split_seed`; required if the answer is
    always at the same position, such as in its own column."""

    kind: ClassVar[TaskKind] = "multiple_choice"
    computed_fields: ClassVar[tuple[str, ...]] = ("choices",)
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ("answer_column",)
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    selection_metric: ClassVar[str] = "accuracy"

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        answer = sample.find(column_names.ANSWER_NAMES, "is_complete")
        question = sample.find(column_names.QUESTION_NAMES) or sample.longest_text(without=[answer or ""])
        options: dict[str, Any] = {"question_column": question, "answer_column": answer}
        listed = sample.find(column_names.CHOICES_NAMES, "is_list")
        if listed:
            options["choices_column"] = listed
            most = max(len(value) for value in sample.columns[listed].values)
        else:
            series = [
                [name for name in map(pattern.format, LETTERS[:10]) if name in sample.columns]
                for pattern in column_names.LETTERED_CHOICES
            ] + [
                [name for name in (f"{stem}{i}" for i in range(10)) if name in sample.columns]
                for stem in column_names.NUMBERED_CHOICES
            ]
            columns = max(series, key=len)
            wrong = max(
                ([n for i in range(10) if (n := f"{stem}{i}") in sample.columns] for stem in column_names.DISTRACTORS),
                key=len,
            )
            if answer and len(wrong) > len(columns):  # its place would be that of the answer
                columns, options["shuffle_choices"] = [answer, *wrong], True
            options["choices_columns"], most = columns, len(columns)
        if answer is None or question is None or most < 2:
            return
        labels = sample.find(column_names.CHOICE_LABELS_NAMES, "is_list")
        if listed and labels:
            options["choice_labels_column"] = labels
        answers = sample.columns[answer]
        if answers.is_number and not labels and "shuffle_choices" not in options:
            lowest = min(int(float(value)) for value in answers.values)
            options["answer_is"] = "index" if lowest == 0 else "number"
        context = sample.find(column_names.CONTEXT_NAMES)
        if context and context != question:
            options["context_column"] = context
        where = listed or f"{options['choices_columns'][0]} to {options['choices_columns'][-1]}"
        yield TaskMatch(0.9, options, f"{where!r} has choices, of which {answer!r} is one")

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        yield from super()._without_effect()
        if self.choices_columns:
            yield "choices_column", "choices_columns has the columns of the choices"
        shown = "choices" in prompt_templates.fields(self.prompt_template())
        if not shown and self.answer_is in ("text", "index", "number"):
            yield "choice_labels_column", f"the prompt shows no choices, and answer_is is {self.answer_is!r}"

    @property
    def draws_by_split_seed(self) -> bool:
        return self.shuffle_choices

    @model_validator(mode="after")
    def _check_answer_position(self) -> MultipleChoice:
        if self.answer_column in self.choices_columns and not self.shuffle_choices:
            raise ValueError(
                f"choices_columns: {self.answer_column!r} is the answer in every row, so its position reveals it; set "
                "shuffle_choices = true"
            )
        return self

    def prompt_template(self) -> str:
        context = " context: {context}" if self.context_column else ""
        return self.prompt or "question: {question} choices: {choices}" + context

    def column_options(self) -> Iterator[tuple[str, str]]:
        yield from super().column_options()
        for column in self.choices_columns:
            yield "choices_columns", column
        if not self.choices_columns:
            yield "choices_column", self.choices_column
        if self.choice_labels_column:
            yield "choice_labels_column", self.choice_labels_column

    def required_columns(self, row: Mapping[str, Any]) -> list[str]:
        columns = [*super().required_columns(row), *self._choice_columns()]
        if self.shuffle_choices:
            columns.append(self.question_column)
        if self.choice_labels_column and "choices" in prompt_templates.fields(self.prompt_template()):
            columns.append(self.choice_labels_column)
        return list(dict.fromkeys(columns))

    def make_prompt(self, row: Mapping[str, Any]) -> Example:
        choices = self._choices(row)
        labels = (
            self._choice_labels(row, len(choices))
            if "choices" in prompt_templates.fields(self.prompt_template())
            else []
        )
        listed = " ".join(f"{label} - {choice}" for label, choice in zip(labels, choices, strict=False))
        source, span = self.render_prompt(row, choices=listed)
        return Example(source, choices[0], tuple(dict.fromkeys(choices)), truncatable_span=span or NO_SPAN)

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the text of the answer, one of the row's choices.

        Raises:
            RowError: A field is missing or empty, a choice is repeated, or the answer is not one of the choices.
        """
        prompt, choices = self.make_prompt(row), get_texts(row, self._choice_columns())
        labels = self._choice_labels(row, len(choices))
        answer = get_value(row, self.answer_column)
        index = match_choice(answer, choices, labels, self.answer_is, self.answer_column)
        return replace(prompt, target=choices[index], group=self.group_of(row))

    def _choice_columns(self) -> tuple[str, ...]:
        return self.choices_columns or (self.choices_column,)

    def _choices(self, row: Mapping[str, Any]) -> list[str]:
        """Returns the row's choices in the order of the prompt."""
        columns = self._choice_columns()
        choices = get_texts(row, columns)
        if len(choices) < 2:
            raise RowError(columns[0], f"has {len(choices)} choices; at least 2 are required")
        if not self.duplicates:
            check_choices(choices, columns[0])
        if not self.shuffle_choices:
            return choices
        seed = "\n".join([str(self.split_seed), get_text(row, self.question_column), *sorted(choices)])
        return random.Random(seed).sample(choices, len(choices))  # noqa: S311 - not used for security

    def _choice_labels(self, row: Mapping[str, Any], number: int) -> list[str]:
        if not self.choice_labels_column:
            return [*LETTERS[:number], *map(str, range(len(LETTERS), number))]
        labels = get_texts(row, [self.choice_labels_column])
        if len(labels) != number:
            raise RowError(self.choice_labels_column, f"has {len(labels)} labels for {number} choices")
        return labels


class DistractorGeneration(_QuestionTask):
    """Question and answer → plausible wrong answers (distractors), on your own data.

    The answer column has the text of the answer. With ``choices_column`` it refers to one of the choices, and the other
    choices are the distractors. Prompt fields: ``{answer}``, ``{question}``, ``{context}`` and any column.
    """

    name: Literal["distractor_generation"] = "distractor_generation"

    distractors_column: str = "distractors"
    """Column with the list of distractors."""
    distractors_columns: tuple[str, ...] = ()
    """Columns of the distractors, if each one has its own column."""
    choices_column: str | None = None
    """Column with the list of all choices including the answer, for data without a column of distractors."""
    answer_is: AnswerFormat = "auto"
    """Content of the answer column with `choices_column`, as for `multiple_choice`."""

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
    selection_metric: ClassVar[str] = "distractor_soft"
    computed_fields: ClassVar[tuple[str, ...]] = ("answer",)
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ("distractors_column", "distractors_columns", "choices_column")

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        yield from super()._without_effect()
        if self.distractors_columns:
            yield "distractors_column", "distractors_columns has the columns of the distractors"
        if self.choices_column:
            for option in ("distractors_column", "distractors_columns"):
                yield option, "the distractors are the other choices of choices_column"

    @model_validator(mode="after")
    def _check_answer_is(self) -> DistractorGeneration:
        if self.choices_column is None and self.answer_is != "auto":
            raise ValueError("answer_is: requires choices_column")
        return self

    def prompt_template(self) -> str:
        context = " context: {context}" if self.context_column else ""
        return self.prompt or "answer: {answer} question: {question}" + context

    def column_options(self) -> Iterator[tuple[str, str]]:
        yield from super().column_options()
        option = "distractors_columns" if self.distractors_columns else "distractors_column"
        for column in self._list_columns():
            yield "choices_column" if self.choices_column else option, column

    def text_columns(self) -> list[str]:
        return [column for column in super().text_columns() if column != self.answer_column or not self.choices_column]

    def _list_columns(self) -> tuple[str, ...]:
        return (self.choices_column,) if self.choices_column else self.distractors_columns or (self.distractors_column,)

    def required_columns(self, row: Mapping[str, Any]) -> list[str]:
        columns = super().required_columns(row)
        if self.choices_column and not self._answer_is_text(row):
            columns.append(self.choices_column)
        return list(dict.fromkeys([*columns, self.answer_column]))

    def _answer_is_text(self, row: Mapping[str, Any]) -> bool:
        """Returns whether the row's answer is a text, and not the label or number of a choice."""
        if not has_column(row, self.answer_column) or (self.choices_column and has_column(row, self.choices_column)):
            return False
        word = str(get_value(row, self.answer_column)).strip()
        return self.answer_is == "text" or not (word in LETTERS or re.fullmatch(r"-?\d+", word))

    def _answer(self, row: Mapping[str, Any]) -> str:
        if not self.choices_column or self._answer_is_text(row):
            return get_nonblank_text(row, self.answer_column)
        choices = get_texts(row, self._list_columns())
        return choices[self._answer_index(row, choices)]

    def _answer_index(self, row: Mapping[str, Any], choices: Sequence[str]) -> int:
        answer, labels = get_value(row, self.answer_column), LETTERS[: len(choices)]
        return match_choice(answer, choices, labels, self.answer_is, self.answer_column)

    def make_prompt(self, row: Mapping[str, Any]) -> Example:
        source, span = self.render_prompt(row, answer=self._answer(row))
        return Example(source, "", truncatable_span=span or NO_SPAN)

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The prompt → ``a; b; c``; semicolons in distractors become commas.

        Raises:
            RowError: A field is missing or empty, or a distractor equals the answer.
        """
        distractors, column = get_texts(row, self._list_columns()), self._list_columns()[0]
        if self.choices_column:
            del distractors[self._answer_index(row, distractors)]
        answer = self._answer(row)
        if not distractors:
            raise RowError(column, "has no distractors")
        if not self.duplicates and not all(map(str.strip, distractors)):
            raise RowError(column, "has an empty distractor")
        if not self.duplicates and answer.strip() in map(str.strip, distractors):
            raise RowError(column, f"contains the answer, {answer!r}")
        target = "; ".join(each.replace(";", ",").strip() for each in distractors)
        extra = {"answer": answer.replace(";", ",")}
        return replace(self.make_prompt(row), target=target, extra=extra, group=self.group_of(row))
