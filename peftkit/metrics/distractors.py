"""Metrics of distractors, the wrong choices of a multiple-choice question, several of which are one generated text.

Distractors are compared without regard to case and superfluous white space. Every value is a mean over the examples,
so that questions weigh the same; one for which nothing was produced counts as 0, unless nothing was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from peftkit.components import Example, TaskKind
from peftkit.errors import InputError
from peftkit.metrics.base import EvaluateMetric, mean, normalised


class _Distractors(EvaluateMetric):
    """What the metrics of distractors share."""

    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation",)

    separator: str = Field(default=";", min_length=1)
    """What stands between two distractors of one text."""

    def split(self, text: str) -> list[str]:
        """The distractors of a text, normalised, in their order; empty ones are none."""
        return [part for part in map(normalised, text.split(self.separator)) if part]


class DistractorNovelty(_Distractors):
    """The share of the produced distractors that are not the right answer.

    The right answer is the example's ``extra["answer"]``.
    """

    name: Literal["distractor_novelty"] = "distractor_novelty"

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The share as ``distractor_novelty``.

        Raises:
            InputError: the examples do not say their answers.
        """
        if not all("answer" in example.extra for example in examples):
            raise InputError(f"{self.name} needs the right answer as each example's extra['answer']")
        return {self.name: mean([self._novel(p, e) for p, e in zip(predictions, examples, strict=True)])}

    def _novel(self, prediction: str, example: Example) -> float:
        produced = self.split(prediction)
        answer = normalised(example.extra["answer"])
        return mean([text != answer for text in produced]) if produced else 0.0


class DistractorDistinctness(_Distractors):
    """The share of the produced distractors that are distinct, where missing ones count as not distinct."""

    name: Literal["distractor_distinctness"] = "distractor_distinctness"

    expected: int = Field(default=3, ge=1)
    """How many distractors a text should hold; more than these are welcome."""

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The share as ``distractor_distinctness``."""
        produced = [self.split(prediction) for prediction in predictions]
        return {self.name: mean([len({*texts}) / max(len(texts), self.expected) for texts in produced])}


class DistractorMatch(_Distractors):
    """Precision, recall and F1 of the produced distractors against the gold ones, both as sets.

    Of several references, each a text of gold distractors, that of the best F1 counts. Where there should be no
    distractors, producing none is right.
    """

    name: Literal["distractor_match"] = "distractor_match"
    values: ClassVar[tuple[str, ...]] = ("distractor_f1", "distractor_recall", "distractor_precision")

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The means as ``distractor_f1``, ``distractor_recall`` and ``distractor_precision``."""
        rows = []
        for prediction, texts in zip(predictions, references, strict=True):
            produced = {*self.split(prediction)}
            rows.append(max(_match(produced, {*self.split(text)}) for text in texts))
        return {key: mean(column) for key, column in zip(self.values, zip(*rows, strict=True), strict=True)}


def _match(produced: set[str], gold: set[str]) -> tuple[float, float, float]:
    """F1, recall and precision, in the order by which the best reference is chosen."""
    if not produced or not gold:
        return (1.0, 1.0, 1.0) if produced == gold else (0.0, 0.0, 0.0)
    common = len(produced & gold)
    return 2 * common / (len(produced) + len(gold)), common / len(gold), common / len(produced)
