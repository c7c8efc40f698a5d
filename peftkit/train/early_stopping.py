"""Ends training when the score on dev stops improving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from peftkit.components import EvaluationResult, TrainContext
from peftkit.components.callback import TrainerCallback
from peftkit.recipe.tables.train_config import EarlyStoppingConfig

EARLY_STOPPING = "train.early_stopping"
"""The name under which its state and its stop are recorded; components have no dot in theirs."""


class EarlyStopping(TrainerCallback):
    """Ends training after a number of evaluations without improvement (Prechelt, 1998).

    Args:
        config: The options.
    """

    name = EARLY_STOPPING

    def __init__(self, config: EarlyStoppingConfig) -> None:
        self.config = config
        self.best: float | None = None
        """The score that the next ones are compared with; None until one was finite."""
        self.evaluations_without_improvement = 0

    def on_evaluate(self, context: TrainContext, evaluation: EvaluationResult) -> None:
        if self.ends_with(evaluation.score, higher_is_better=evaluation.higher_is_better):
            evaluations = "evaluation" if self.config.patience == 1 else f"{self.config.patience} evaluations"
            by = f"by more than {self.config.min_delta:g} " if self.config.min_delta else ""
            context.stop(f"dev {evaluation.metric} did not improve {by}in the last {evaluations}")

    def ends_with(self, score: float, *, higher_is_better: bool) -> bool:
        """Add an evaluation, and return whether training ends with it.

        Args:
            score: The score on dev; one that is not finite is no improvement.
            higher_is_better: The direction of the score.
        """
        sign = 1.0 if higher_is_better else -1.0
        if math.isfinite(score) and (self.best is None or sign * (score - self.best) > self.config.min_delta):
            self.best, self.evaluations_without_improvement = score, 0
            return False
        self.evaluations_without_improvement += 1
        return self.evaluations_without_improvement >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and the number of evaluations since."""
        return {"best": self.best, "evaluations_without_improvement": self.evaluations_without_improvement}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the best score and the number of evaluations since.

        Args:
            state: What ``state_dict`` returned.
        """
        self.best, self.evaluations_without_improvement = state["best"], state["evaluations_without_improvement"]
