"""Metrics of distractors: the wrong choices of a multiple-choice question, generated as one text.

Case and extra whitespace are ignored. Every value is a mean over examples, so that all questions have the same weight.
An example without generated distractors scores 0, unless none were expected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from peftkit.components import Example, TaskKind
from peftkit.errors import InputError
from peftkit.metrics.base import EvaluateMetric, mean, normalize


class _DistractorMetric(EvaluateMetric):
    """Base class of the metrics of distractors."""

    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation",)

    separator: str = Field(default=";", min_length=1)
    """The separator between the distractors of a text."""

    def split(self, text: str) -> list[str]:
        """Split a text into its normalized, non-empty distractors."""
        return [part for part in map(normalize, text.split(self.separator)) if part]


class _AnswerAwareMetric(_DistractorMetric):
    """Base class of metrics that need the correct answer, ``example.extra["answer"]``."""

    def answers(self, examples: Sequence[Example]) -> list[str]:
        """Return the normalized correct answers.

        Raises:
            InputError: An example has no ``extra["answer"]``.
        """
        if not all("answer" in example.extra for example in examples):
            raise InputError(f"{self.name} needs the correct answer of each example in extra['answer']")
        return [normalize(example.extra["answer"]) for example in examples]


class DistractorNovelty(_AnswerAwareMetric):
    """The share of generated distractors that differ from the correct answer."""

    name: Literal["distractor_novelty"] = "distractor_novelty"
    is_mean_of_examples: ClassVar[bool] = True

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share as ``distractor_novelty``.

        Raises:
            InputError: An example has no answer.
        """
        pairs = zip(map(self.split, predictions), self.answers(examples), strict=True)
        return {self.name: mean([mean([t != answer for t in texts]) if texts else 0.0 for texts, answer in pairs])}


class AnswerLeakage(_AnswerAwareMetric):
    """The share of examples in which a generated distractor gives the correct answer away; lower is better.

    A distractor does so if it equals the answer or, with ``contained``, contains its words.
    """

    name: Literal["answer_leakage"] = "answer_leakage"
    is_mean_of_examples: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = False

    contained: bool = False
    """Also count distractors that contain the answer among further words."""

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share as ``answer_leakage``.

        Raises:
            InputError: An example has no answer.
        """
        pairs = zip(map(self.split, predictions), self.answers(examples), strict=True)
        return {self.name: mean([float(any(self._leaks(t, answer) for t in texts)) for texts, answer in pairs])}

    def _leaks(self, text: str, answer: str) -> bool:
        return text == answer or (self.contained and bool(answer) and f" {answer} " in f" {text} ")


class DistractorDistinctness(_DistractorMetric):
    """The share of generated distractors that are distinct; missing ones count as not distinct."""

    name: Literal["distractor_distinctness"] = "distractor_distinctness"
    is_mean_of_examples: ClassVar[bool] = True

    expected: int = Field(default=3, ge=1)
    """The expected number of distractors per example; more are allowed."""

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share as ``distractor_distinctness``."""
        produced = [self.split(prediction) for prediction in predictions]
        return {self.name: mean([len({*texts}) / max(len(texts), self.expected) for texts in produced])}


class DistractorMatch(_DistractorMetric):
    """Precision, recall and F1 of the set of generated distractors against the reference distractors.

    Of several references, each a text of distractors, the one with the best F1 counts. If a reference is empty,
    generating no distractors scores 1.
    """

    name: Literal["distractor_match"] = "distractor_match"
    is_mean_of_examples: ClassVar[bool] = True
    values: ClassVar[tuple[str, ...]] = ("distractor_f1", "distractor_recall", "distractor_precision")

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the means as ``distractor_f1``, ``distractor_recall`` and ``distractor_precision``."""
        rows = []
        for prediction, texts in zip(predictions, references, strict=True):
            produced = {*self.split(prediction)}
            rows.append(max(_set_scores(produced, {*self.split(text)}) for text in texts))
        return {key: mean(column) for key, column in zip(self.values, zip(*rows, strict=True), strict=True)}


class DistractorAssignment(_DistractorMetric):
    """Similarity of generated and reference distractors under the best one-to-one assignment (Kuhn, 1955).

    ``distractor_exact`` is the share of equal pairs and ``distractor_soft`` the mean similarity of the pairs, which is
    the F1 of their words (Rajpurkar et al., 2016). Both are divided by the larger number of distractors, so missing and
    extra ones have the same penalty. Each value has its own assignment, and of several references the best counts. If a
    reference is empty, generating no distractors scores 1.
    """

    name: Literal["distractor_assignment"] = "distractor_assignment"
    is_mean_of_examples: ClassVar[bool] = True
    values: ClassVar[tuple[str, ...]] = ("distractor_soft", "distractor_exact")

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the means as ``distractor_soft`` and ``distractor_exact``."""
        soft, exact = [], []
        for prediction, texts in zip(predictions, references, strict=True):
            produced, golds = self.split(prediction), [self.split(text) for text in texts]
            soft.append(max(assignment_score(produced, gold, word_f1) for gold in golds))
            exact.append(max(assignment_score(produced, gold, lambda a, b: float(a == b)) for gold in golds))
        return {"distractor_soft": mean(soft), "distractor_exact": mean(exact)}


def assignment_score(produced: Sequence[str], gold: Sequence[str], similarity: Callable[[str, str], float]) -> float:
    """Compute the total similarity of the best one-to-one assignment, divided by the larger number of texts.

    Args:
        produced: The generated texts.
        gold: The reference texts.
        similarity: The similarity of two texts, from 0 to 1.
    """
    from scipy.optimize import linear_sum_assignment

    if not produced or not gold:
        return float(not produced and not gold)
    table = [[similarity(one, other) for other in gold] for one in produced]
    pairs = zip(*linear_sum_assignment(table, maximize=True), strict=True)
    return float(sum(table[row][column] for row, column in pairs) / max(len(produced), len(gold)))


def word_f1(one: str, other: str) -> float:
    """Compute the F1 of the bags of words of two texts.

    Args:
        one: A text whose words are separated by whitespace.
        other: Another text.
    """
    words, others = Counter(one.split()), Counter(other.split())
    common = (words & others).total()
    return 2 * common / (words.total() + others.total()) if common else 0.0


def _set_scores(produced: set[str], gold: set[str]) -> tuple[float, float, float]:
    """Return F1, recall and precision, in the order by which the best reference is selected."""
    if not produced or not gold:
        return (1.0, 1.0, 1.0) if produced == gold else (0.0, 0.0, 0.0)
    common = len(produced & gold)
    return 2 * common / (len(produced) + len(gold)), common / len(gold), common / len(produced)
