"""Regression on a text, or a pair of texts, on the user's own data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from peftkit.answer_texts.number_texts import join_numbers
from peftkit.components import Example, TaskKind
from peftkit.components.types import TaskMatch
from peftkit.errors import InputError, comma_separated
from peftkit.tasks.columns import get_number_text
from peftkit.tasks.sources.answer_columns import answer_columns, decimal_commas
from peftkit.tasks.sources.data_sample import DataSample
from peftkit.tasks.text_tasks.text_task import TextTask

TOGETHER = 0.02
"""How much better several columns of numbers fit together than one of them."""


class TextRegression(TextTask):
    """Text → a number, or several, on your own data.

    An encoder predicts the numbers as they are in the data. Other models generate them as text. Prompt fields:
    ``{text}``, ``{text_pair}`` and any column.
    """

    name: Literal["text_regression"] = "text_regression"

    target_column: str = "target"
    """Column of the number to predict."""
    target_columns: tuple[str, ...] = ()
    """Columns of the numbers, if several are predicted for each text."""

    kind: ClassVar[TaskKind] = "regression"
    metrics: ClassVar[tuple[str, ...]] = ("mse", "mae", "pearson", "spearman", "unparsable")
    selection_metric: ClassVar[str] = "mse"
    instruction: ClassVar[str] = "score"
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ("target_column", "target_columns")

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes columns with numbers; of several that fit equally well, all together and each."""
        answers = [answer for answer in answer_columns(sample) if answer.as_numbers]
        for answer in answers:
            if texts := cls.recognize_texts(sample, answer.name):
                options = {**texts, "target_column": answer.name}
                yield TaskMatch(answer.as_numbers, options, answer.describe_numbers())
        if not answers and (column := decimal_commas(sample)):
            value = column.values[0]
            raise InputError(
                f"{column.name!r} has numbers with decimal commas, such as {value}; write them with points, such as "
                f"{value.replace(',', '.')}"
            )
        best = max((answer.as_numbers for answer in answers), default=0.0)
        together = [answer for answer in answers if answer.as_numbers == best]
        texts = cls.recognize_texts(sample, *(answer.name for answer in together))
        if len(together) > 1 and texts:
            names = [answer.name for answer in together]
            reason = f"{comma_separated(names)} have numbers, which can be predicted together"
            yield TaskMatch(best + TOGETHER, {**texts, "target_columns": names}, reason)

    @field_validator("target_columns")
    @classmethod
    def _check_target_columns(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if len(columns) == 1:
            raise ValueError(f"has one column; use target_column = {columns[0]!r}")
        return columns

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        yield from super()._without_effect()
        if self.target_columns:
            yield "target_column", "target_columns has the columns of the numbers"

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns of the numbers, in the order of the head's outputs."""
        return self.target_columns or (self.target_column,)

    def answer_columns(self) -> Iterator[tuple[str, str]]:
        option = "target_columns" if self.target_columns else "target_column"
        for column in self.targets:
            yield option, column

    def text_columns(self) -> list[str]:
        return [*super().text_columns(), *self.targets]

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The prompt → the numbers as text.

        Raises:
            RowError: A field is missing or empty, or a target is not a number.
        """
        texts = [get_number_text(row, column) for column in self.targets]
        extra = dict(zip(self.targets, texts, strict=True)) if len(texts) > 1 else {}
        prompt = self.make_prompt(row)
        return replace(prompt, target=join_numbers(texts), extra=extra, group=self.group_of(row))
