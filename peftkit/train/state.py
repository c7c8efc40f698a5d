"""The state of a training run: what its checkpoints hold besides tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from peftkit.recipe import Recipe
from peftkit.train.budget import NOT_SAVED, IntervalTrigger, Progress, budget_used

EvaluationRow = dict[str, Any]
"""A row of ``evaluations.jsonl``."""


class StopRequest(NamedTuple):
    """Why training ends before the budget is used."""

    callback: str
    """The callback that asked for it."""
    reason: str


class TrainState:
    """What changes during training, apart from tensors.

    Args:
        recipe: The recipe of the run.
        steps_per_epoch: Steps per epoch; None for streaming data.
        device: The device of the losses.
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int | None, device: torch.device) -> None:
        self.budget, self.device = recipe.train.budget, device
        self.progress = Progress(steps_per_epoch=steps_per_epoch)
        self.evaluation_trigger = IntervalTrigger(recipe.evaluate.every, self.budget)
        self.checkpoint_trigger = IntervalTrigger(recipe.train.checkpoint.every, self.budget)
        self.evaluation_due = recipe.evaluate.at_start
        """Whether the model must be evaluated before the next step."""
        self.evaluations: list[EvaluationRow] = []
        self.evaluation_seconds = 0.0
        self.resumed_after_steps: list[int] = []
        """The steps after which the run was resumed."""
        self.skipped_steps = 0
        """Steps without an update, because their loss was not finite."""
        self.stop: StopRequest | None = None
        """Why training ends early; None as long as it does not."""
        self._losses: list[Tensor] = []
        """Summed losses of the steps since the last evaluation."""
        self._loss_targets = 0
        """Targets of these steps."""

    @property
    def budget_used(self) -> float:
        """The used share of the budget."""
        return budget_used(self.budget, self.progress)

    @property
    def ended(self) -> bool:
        """Whether no step follows: the budget is used, or a callback stopped training."""
        return self.stop is not None or self.budget_used >= 1

    def add_loss(self, loss: Tensor, targets: int) -> None:
        """Add the loss of a step to the mean since the last evaluation.

        Args:
            loss: The loss, summed over the targets of all processes, a scalar.
            targets: The number of targets.
        """
        self._losses.append(loss)
        self._loss_targets += targets

    def pop_mean_loss(self) -> float | None:
        """Return the mean loss per target since the last evaluation and reset it; None if there were no steps."""
        mean_loss = torch.stack(self._losses).sum().item() / self._loss_targets if self._losses else None
        self._losses, self._loss_targets = [], 0
        return mean_loss

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON, without the evaluations, which have a file of their own."""
        names = [field.name for field in fields(self.progress) if field.name not in NOT_SAVED]
        return {
            "progress": {name: getattr(self.progress, name) for name in names},
            "evaluation_done": not self.evaluation_due,
            "evaluation_trigger": self.evaluation_trigger.passed,
            "checkpoint_trigger": self.checkpoint_trigger.passed,
            "evaluation_seconds": self.evaluation_seconds,
            "step_losses": [loss.item() for loss in self._losses],
            "step_targets": self._loss_targets,
            "resumed_after_steps": self.resumed_after_steps,
            "steps_skipped": self.skipped_steps,
            "stop": None if self.stop is None else self.stop._asdict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned, and record that the run is resumed.

        Args:
            state: Values by name; further ones are ignored. ``stop`` may be missing, as in older checkpoints.
        """
        for key, value in state["progress"].items():
            setattr(self.progress, key, value)
        self.evaluation_due = not state["evaluation_done"]
        self.evaluation_trigger.passed = state["evaluation_trigger"]
        self.checkpoint_trigger.passed = state["checkpoint_trigger"]
        self.evaluation_seconds = state["evaluation_seconds"]
        self._losses = [torch.tensor(loss, device=self.device) for loss in state["step_losses"]]
        self._loss_targets = state["step_targets"]
        self.resumed_after_steps = [*state["resumed_after_steps"], self.progress.step]
        self.skipped_steps = state["steps_skipped"]
        stop = state.get("stop")
        self.stop = None if stop is None else StopRequest(**stop)
