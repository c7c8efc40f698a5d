"""The base class of meters."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from peftkit.components.component import StatefulComponent
from peftkit.components.types import StepStats

if TYPE_CHECKING:
    from torch import nn


class Meter(StatefulComponent):
    """Measures one kind of cost during training. State is kept in pydantic private attributes."""

    budgets: ClassVar[tuple[str, ...]] = ()
    """The totals that ``[train.budget]`` can limit, such as ``joules``."""
    waits_for_device: ClassVar[bool] = True
    """Whether ``on_step_start`` and ``on_step_end`` need a device that has finished its work, as those of energy do.
    With such a meter every step waits for the device."""

    def start(self, model: nn.Module) -> None:
        """Run once before the first step.

        Args:
            model: The model to train.
        """

    def on_step_start(self) -> None:
        """Run before each optimizer step, once its batch is available."""

    def on_step_end(self) -> None:
        """Run after each optimizer step, before its MACs are counted."""

    def update(self, record: StepStats) -> None:
        """Add the stats of a step. Called after ``on_step_end``, so that counting is not part of the step's cost.

        Args:
            record: The samples, tokens, seconds and operations of the step.
        """

    def totals(self) -> dict[str, float]:
        """Return the cost of training so far, without evaluation.

        Returns:
            The totals by name; names include the unit, such as ``train_seconds``.
        """
        raise NotImplementedError
