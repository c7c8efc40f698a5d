"""Metrics of distractors, the wrong choices of a multiple-choice question, several of which are one generated text.

Distractors are compared without regard to case and superfluous white space. Every value is a mean over the examples,
so that questions weigh the same; one for which nothing was produced counts as 0, unless nothing was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
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


class _OfAnswers(_Distractors):
    """What the metrics of distractors share that know the right answer, the example's ``extra["answer"]``."""

    def answers(self, examples: Sequence[Example]) -> list[str]:
        """The right answers, normalised.

        Raises:
            InputError: an example does not say its answer.
        """
        if not all("answer" in example.extra for example in examples):
            raise InputError(f"{self.name} needs the right answer as each example's extra['answer']")
        return [normalised(example.extra["answer"]) for example in examples]


class DistractorNovelty(_OfAnswers):
    """The share of the produced distractors that are not the right answer.

    The right answer is the example's ``extra["answer"]``.
    """

    name: Literal["distractor_novelty"] = "distractor_novelty"
    per_example: ClassVar[bool] = True

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The share as ``distractor_novelty``.

        Raises:
            InputError: the examples do not say their answers.
        """
        pairs = zip(map(self.split, predictions), self.answers(examples), strict=True)
        return {self.name: mean([mean([t != answer for t in texts]) if texts else 0.0 for texts, answer in pairs])}


class AnswerLeakage(_OfAnswers):
    """The share of examples in which a produced distractor gives the right answer away; lower is better.

    It does so where it is the answer, or, with ``contained``, where the answer stands in it word by word.
    """

    name: Literal["answer_leakage"] = "answer_leakage"
    per_example: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = False

    contained: bool = False
    """Count a distractor that holds the answer among other words too."""

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The share as ``answer_leakage``.

        Raises:
            InputError: the examples do not say their answers.
        """
        pairs = zip(map(self.split, predictions), self.answers(examples), strict=True)
        return {self.name: mean([float(any(self._leaks(t, answer) for t in texts)) for texts, answer in pairs])}

    def _leaks(self, text: str, answer: str) -> bool:
        return text == answer or (self.contained and bool(answer) and f" {answer} " in f" {text} ")


class DistractorDistinctness(_Distractors):
    """The share of the produced distractors that are distinct, where missing ones count as not distinct."""

    name: Literal["distractor_distinctness"] = "distractor_distinctness"
    per_example: ClassVar[bool] = True

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
    per_example: ClassVar[bool] = True
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


class DistractorAssignment(_Distractors):
    """The produced distractors against the gold ones, each with its partner in the best assignment of one to one.

    ``distractor_exact`` is the share of equal pairs and ``distractor_soft`` the mean likeness of the pairs, both over
    the larger of the two numbers of distractors, so that missing and superfluous ones cost alike. Likeness is the F1
    of two texts' words (Rajpurkar et al., 2016). The assignment is Kuhn's (1955), one for each value; of several
    references that with the best counts. Where there should be none, producing none is right.
    """

    name: Literal["distractor_assignment"] = "distractor_assignment"
    per_example: ClassVar[bool] = True
    values: ClassVar[tuple[str, ...]] = ("distractor_soft", "distractor_exact")

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The means as ``distractor_soft`` and ``distractor_exact``."""
        soft, exact = [], []
        for prediction, texts in zip(predictions, references, strict=True):
            produced, golds = self.split(prediction), [self.split(text) for text in texts]
            soft.append(max(assigned(produced, gold, word_f1) for gold in golds))
            exact.append(max(assigned(produced, gold, lambda a, b: float(a == b)) for gold in golds))
        return {"distractor_soft": mean(soft), "distractor_exact": mean(exact)}


def assigned(produced: Sequence[str], gold: Sequence[str], likeness: Callable[[str, str], float]) -> float:
    """The likeness of the pairs of the best one-to-one assignment, summed, over the larger number of texts."""
    from scipy.optimize import linear_sum_assignment

    if not produced or not gold:
        return float(not produced and not gold)
    table = [[likeness(one, other) for other in gold] for one in produced]
    pairs = zip(*linear_sum_assignment(table, maximize=True), strict=True)
    return float(sum(table[row][column] for row, column in pairs) / max(len(produced), len(gold)))


def word_f1(one: str, other: str) -> float:
    """The F1 of the words of two texts, each as often as it stands there."""
    words, others = Counter(one.split()), Counter(other.split())
    common = (words & others).total()
    return 2 * common / (words.total() + others.total()) if common else 0.0


def _match(produced: set[str], gold: set[str]) -> tuple[float, float, float]:
    """F1, recall and precision, in the order by which the best reference is chosen."""
    if not produced or not gold:
        return (1.0, 1.0, 1.0) if produced == gold else (0.0, 0.0, 0.0)
    common = len(produced & gold)
    return 2 * common / (len(produced) + len(gold)), common / len(gold), common / len(produced)
