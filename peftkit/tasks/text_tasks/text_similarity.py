"""Pairs of texts with a score of their similarity, on the user's own data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from peftkit.answer_texts.number_texts import format_number
from peftkit.components import Example, TaskKind
from peftkit.components.types import TaskMatch
from peftkit.errors import RowError
from peftkit.tasks import column_names
from peftkit.tasks.columns import get_nonblank_text, get_number_text
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.sources.answer_columns import answer_columns, is_named
from peftkit.tasks.sources.data_sample import DataSample
from peftkit.tasks.text_tasks.text_task import find_pair

SIMILAR = 0.03
"""How much better a number that is named like a similarity fits here than as one to predict."""


class TextSimilarity(DatasetTask):
    """Two texts → the score of their similarity, on your own data; for vectors of texts, whose cosine is the score."""

    name: Literal["text_similarity"] = "text_similarity"

    text1_column: str = "sentence1"
    """Column of the first text; dots select nested fields."""
    text2_column: str = "sentence2"
    """Column of the second text."""
    score_column: str = "score"
    """Column of the score, from -1 to 1 unless `score_range` is set."""
    score_range: tuple[float, float] | None = None
    """The lowest and the highest score of the data, such as `[0, 5]`, which become 0 and 1."""

    kind: ClassVar[TaskKind] = "text_similarity"
    metrics: ClassVar[tuple[str, ...]] = ("spearman", "pearson")
    selection_metric: ClassVar[str] = "spearman"
    required_fields: ClassVar[tuple[str, ...]] = ("text1", "text2")
    hidden_from_prompt: ClassVar[tuple[str, ...]] = ("score_column",)

    @classmethod
    def recognize_columns(cls, sample: DataSample) -> Iterator[TaskMatch]:
        """Recognizes pairs of texts with a number."""
        pair = find_pair(sample)
        for answer in answer_columns(sample):
            if pair is None or answer.name in pair or not answer.as_numbers:
                continue
            numbers = answer.column.numbers
            low, high = min(numbers), max(numbers)
            options: dict[str, Any] = {"text1_column": pair[0], "text2_column": pair[1], "score_column": answer.name}
            if low < -1 or high > 1:
                options["score_range"] = [min(0.0, float(math.floor(low))), float(math.ceil(high))]
            named = is_named(answer.column, column_names.SIMILARITY_NAMES)
            score = answer.as_numbers + (SIMILAR if named else -SIMILAR)
            reason = f"{answer.describe_numbers()}, to which cosines of {pair[0]!r} and {pair[1]!r} are fitted"
            yield TaskMatch(score, options, reason)

    @field_validator("score_range")
    @classmethod
    def _check_score_range(cls, score_range: tuple[float, float] | None) -> tuple[float, float] | None:
        if score_range is not None and score_range[0] >= score_range[1]:
            raise ValueError("the lowest score must be below the highest")
        return score_range

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        yield from super()._without_effect()
        yield "prompt", "texts are read as they are (see objective.prompt)"

    def prompt_template(self) -> str:
        return "{text1} | {text2}"  # for people; models read the texts apart

    def column_options(self) -> Iterator[tuple[str, str]]:
        yield "text1_column", self.text1_column
        yield "text2_column", self.text2_column
        yield "score_column", self.score_column
        yield from super().column_options()

    def field_columns(self) -> Mapping[str, str]:
        return {"text1": self.text1_column, "text2": self.text2_column}

    def text_columns(self) -> list[str]:
        return [*super().text_columns(), self.score_column]

    def make_prompt(self, row: Mapping[str, Any]) -> Example:
        pair = (get_nonblank_text(row, self.text1_column), get_nonblank_text(row, self.text2_column))
        return replace(super().make_prompt(row), source_pair=pair)

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """The two texts → the score.

        Raises:
            RowError: A text is missing or empty, or the score is not a number in the range.
        """
        text = get_number_text(row, self.score_column)
        score, (low, high) = float(text), self.score_range or (-1.0, 1.0)
        if not low <= score <= high:
            remedy = "" if self.score_range else "; set score_range to the lowest and highest score, such as [0, 5]"
            raise RowError(self.score_column, f"must be from {low:g} to {high:g}, not {text}{remedy}")
        target = text if self.score_range is None else format_number((score - low) / (high - low))
        return replace(self.make_prompt(row), target=target, group=self.group_of(row))
