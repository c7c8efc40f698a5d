"""Metrics of rewards, named as in trl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from peftkit import Example, Metric, TaskKind
from peftkit_preference.preference_tasks import DESIRABLE

PAIRS: tuple[TaskKind, ...] = ("preference",)
UNPAIRED: tuple[TaskKind, ...] = ("unpaired_preference",)


class RewardAccuracy(Metric):
    """The share of rows whose chosen completion has a higher reward than the rejected one; equal ones count half.

    Of unpaired completions, the share of desirable ones with a positive reward and of undesirable ones with a negative
    one. An input-blind guess scores 0.5.
    """

    name: Literal["reward_accuracy"] = "reward_accuracy"
    kinds: ClassVar[tuple[TaskKind, ...]] = (*PAIRS, *UNPAIRED)
    is_mean_of_examples: ClassVar[bool] = True

    def compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share as ``reward_accuracy``."""
        scores = [float(p in texts) if p else 0.5 for p, texts in zip(predictions, references, strict=True)]
        return {self.name: _mean(scores)}


class RewardMargin(Metric):
    """The mean of the chosen completion's reward less the rejected one's."""

    name: Literal["reward_margin"] = "reward_margin"
    kinds: ClassVar[tuple[TaskKind, ...]] = PAIRS
    input: ClassVar[str] = "values"
    is_mean_of_examples: ClassVar[bool] = True

    def compute(
        self, predictions: Sequence[Any], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the mean as ``reward_margin``."""
        return {self.name: _mean([_number(each, "reward_margin") for each in predictions])}


class LogpsAccuracy(Metric):
    """The share of rows whose chosen completion is more likely per token than the rejected one, without a base model.

    It ranks by the reward of SimPO, whatever the model was trained with; equal ones count half.
    """

    name: Literal["logps_accuracy"] = "logps_accuracy"
    kinds: ClassVar[tuple[TaskKind, ...]] = PAIRS
    input: ClassVar[str] = "values"
    is_mean_of_examples: ClassVar[bool] = True

    def compute(
        self, predictions: Sequence[Any], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share as ``logps_accuracy``."""
        margins = [_number(each, "logps_margin") for each in predictions]
        return {self.name: _mean([_wins(margin, 0.0) for margin in margins])}


class RewardAuc(Metric):
    """The share of pairs of a desirable and an undesirable row that the rewards order rightly; equal ones count half.

    It is the area under the ROC curve, and 0.5 if all rows are of one kind.
    """

    name: Literal["reward_auc"] = "reward_auc"
    kinds: ClassVar[tuple[TaskKind, ...]] = UNPAIRED
    input: ClassVar[str] = "values"

    def compute(
        self, predictions: Sequence[Any], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the area as ``reward_auc``."""
        import math

        from sklearn.metrics import roc_auc_score

        desirable = [texts[0] == DESIRABLE for texts in references]
        rewards = [_number(each, "reward") for each in predictions]
        if not all(map(math.isfinite, rewards)):
            return {self.name: math.nan}
        if len(set(desirable)) < 2:
            return {self.name: 0.5}
        return {self.name: float(roc_auc_score(desirable, rewards))}


def _number(prediction: Mapping[str, float], name: str) -> float:
    return prediction[name]


def _wins(value: float, other: float) -> float:
    return 0.5 * ((value > other) + (value >= other)) if value == value else 0.5


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
