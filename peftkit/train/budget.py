"""Tracks progress against the budget, and when evaluations and checkpoints are due."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from operator import attrgetter
from typing import Any, cast

from datasets import Dataset

from peftkit.components import StepStats
from peftkit.components.lazy_number import LateSum
from peftkit.data.dataloader import row_order
from peftkit.data.pipeline import PreparedData
from peftkit.recipe import Recipe
from peftkit.recipe.tables.intervals import parse_interval
from peftkit.recipe.tables.train_config import BudgetConfig

FIRST = 0.001
"""Share of the budget at which the first evaluation of a logarithmic interval is due."""


NOT_SAVED = ("steps_per_epoch", "wall_seconds", "wall_seconds_before", "wall_seconds_reserved")
"""What of the progress is known again when a run is resumed; the clock has a state of its own."""


class LateSeconds:
    """An attribute with a sum of seconds that is not read before the attribute is."""

    def __get__(self, instance: Any, owner: Any = None) -> float:
        return 0.0 if instance is None else instance._seconds.total  # without an instance: the field's default

    def __set__(self, instance: Any, seconds: float) -> None:
        instance._seconds = LateSum(seconds)


@dataclass
class Progress:
    """What training has consumed so far, over all processes; padding counts towards ``macs`` only."""

    step: int = 0
    samples: int = 0
    input_tokens: int = 0
    target_tokens: int = 0
    seconds: float = LateSeconds()  # type: ignore[assignment]  # dataclasses take descriptors as defaults
    macs: int = 0
    joules: float = 0.0
    wall_seconds: float = 0.0
    """What the user has waited for, evaluations included; read only if it is limited."""
    wall_seconds_before: float = 0.0
    """The part of it before the first step."""
    wall_seconds_reserved: float = 0.0
    """What one more step and the end of the run are expected to take."""
    completed_epochs: int = 0
    """Finished epochs."""
    steps_of_epoch: int = 0
    """Steps of the current epoch."""
    steps_per_epoch: int | None = field(default=1, kw_only=True)
    """None for streaming data, whose length is unknown."""

    @property
    def epoch(self) -> float:
        """Epochs so far, with the fraction of the current one; for streaming data only finished ones."""
        return self.completed_epochs if self.steps_per_epoch is None else self.step / self.steps_per_epoch

    def add(self, stats: StepStats) -> None:
        """Add a step."""
        self.step += 1
        self.steps_of_epoch += 1
        self.add_cost(stats)

    def add_cost(self, stats: StepStats) -> None:
        """Add the cost of a step, or of what came before the first one."""
        self.samples += stats.samples
        self.input_tokens += stats.input_tokens
        self.target_tokens += stats.target_tokens
        self._late_sum.add(lambda: stats.seconds)
        self.macs += stats.forward_macs + stats.backward_macs

    @property
    def _late_sum(self) -> LateSum:
        return cast("LateSum", vars(self)["_seconds"])

    def late_seconds(self) -> Callable[[], float]:
        """Return a function that reads the seconds up to now."""
        seconds = self._late_sum.copy()
        return lambda: seconds.total

    def snapshot(self) -> Progress:
        """Return a copy, without reading the seconds."""
        other = copy.copy(self)
        vars(other)["_seconds"] = self._late_sum.copy()
        return other

    def restore(self, snapshot: Progress) -> None:
        """Return to the progress at the time of a snapshot."""
        vars(self).update(vars(snapshot))


AMOUNTS: Mapping[str, Callable[[Progress], float]] = {
    "steps": attrgetter("step"),
    "samples": attrgetter("samples"),
    "tokens": lambda progress: progress.input_tokens + progress.target_tokens,
    "epochs": attrgetter("epoch"),
    "seconds": attrgetter("seconds"),  # read only if they are limited: that waits for the device
    "gmacs": lambda progress: progress.macs / 1e9,
    "joules": attrgetter("joules"),
}
"""What each limit of a budget limits; that of `wall_seconds` also depends on how long the end of the run takes."""


def budget_used(budget: BudgetConfig, progress: Progress) -> float:
    """Return the used share of the budget; training ends at 1.

    Args:
        budget: The limits; the one that is closest counts.
        progress: The progress so far.
    """
    shares = [float(AMOUNTS[key](progress) / limit) for key, limit in budget if limit is not None and key in AMOUNTS]
    if budget.wall_seconds is not None:
        shares.append(_wall_share(budget.wall_seconds, progress))
    return max(shares)


def _wall_share(limit: float, progress: Progress) -> float:
    """The used share of the time that is left for training: without the start of the run, and without its end."""
    available = limit - progress.wall_seconds_before - progress.wall_seconds_reserved
    return (progress.wall_seconds - progress.wall_seconds_before) / available if available > 0 else 1.0


def planned_steps(budget: BudgetConfig, *, effective_batch: int, steps_per_epoch: int | None) -> int | None:
    """Return the number of steps of a run; None if the budget does not determine it.

    Args:
        budget: The limits.
        effective_batch: Rows per step, over all processes and accumulated batches.
        steps_per_epoch: Steps per epoch; None for streaming data.
    """
    limits = []
    if not budget.has_known_steps:
        return None
    if budget.steps is not None:
        limits.append(budget.steps)
    if budget.samples is not None:
        limits.append(math.ceil(budget.samples / effective_batch))
    if budget.epochs is not None and steps_per_epoch is not None:
        limits.append(math.ceil(budget.epochs * steps_per_epoch - 1e-9))
    return min(limits, default=None)


def planned_steps_of_run(recipe: Recipe, data: PreparedData, batch: int) -> int | None:
    """Return the number of steps of a run; None if its budget does not determine it.

    Args:
        recipe: The recipe.
        data: Its data.
        batch: Effective batch size.
    """
    budget, tokens = recipe.train.budget, recipe.train.tokens_per_batch
    per_epoch = data.steps_per_epoch(batch, tokens)
    if tokens is not None and budget.samples is not None and isinstance(data.train, Dataset):
        order = row_order(recipe, data.train, batch)
        epochs, rest = divmod(budget.samples, len(data.train))
        order.set_epoch(epochs)
        in_last_epoch = sum(rows < rest for rows in accumulate(map(len, order.steps()), initial=0))
        steps = epochs * (per_epoch or 0) + in_last_epoch
        budget = budget.model_copy(update={"samples": None, "steps": min(steps, budget.steps or steps)})
    return planned_steps(budget, effective_batch=batch, steps_per_epoch=per_epoch)


class IntervalTrigger:
    """Fires at regular intervals of training.

    Args:
        every: The interval: ``"100 steps"``, ``"0.5 epochs"``, ``"10%"`` of the budget, ``"20 log"`` (that many times,
            logarithmically spaced over the budget) or ``"off"``.
        budget: The limits of the run.
    """

    def __init__(self, every: str, budget: BudgetConfig) -> None:
        self.number, self.unit = (math.inf, "steps") if every == "off" else parse_interval(every)
        self.budget = budget
        self.passed = 0
        """Intervals that have passed."""

    def due(self, progress: Progress) -> bool:
        """Return whether another interval has passed since the last call that returned True."""
        share = budget_used(self.budget, progress)
        if self.unit == "log":
            position = 1 - math.log(share) / math.log(FIRST) if share >= FIRST else -1.0
            passed = math.floor(position * (self.number - 1) + 1 + 1e-9)
        else:
            amount = {"steps": progress.step, "epochs": progress.epoch, "%": 100 * share}[self.unit]
            passed = math.floor(amount / self.number + 1e-9)
        if passed <= self.passed:
            return False
        self.passed = passed
        return True
