"""How far a run is: what was used, what is left, when to evaluate, and the learning rate that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import get_scheduler

from peftkit.recipe import Recipe
from peftkit.recipe.tables import BudgetTable, interval

FIRST = 0.001  # where evaluations on a logarithmic scale begin, as a share of the budget
TICKS = 1_000_000  # the resolution at which transformers' schedules, which count steps, are read


@dataclass
class Used:
    """What training has consumed, over all processes; padding is counted in the multiply-accumulates only."""

    step: int = 0
    samples: int = 0
    input_tokens: int = 0
    target_tokens: int = 0
    seconds: float = 0.0
    macs: int = 0
    joules: float = 0.0
    passes: int = 0
    steps_of_pass: int = 0
    steps_per_epoch: int | None = field(default=1, kw_only=True)

    @property
    def epoch(self) -> float:
        """Passes over the training rows; of a stream, whose length is not known, the finished ones."""
        return self.passes if self.steps_per_epoch is None else self.step / self.steps_per_epoch


def progress(budget: BudgetTable, used: Used) -> float:
    """The share of the budget that is used, by the limit that is nearest; 1 and above ends training."""
    amounts = {
        "steps": used.step,
        "samples": used.samples,
        "tokens": used.input_tokens + used.target_tokens,
        "epochs": used.epoch,
        "seconds": used.seconds,
        "gmacs": used.macs / 1e9,
        "joules": used.joules,
    }
    return max(float(amounts[key] / limit) for key, limit in budget if limit is not None)


def planned_steps(budget: BudgetTable, *, effective_batch: int, steps_per_epoch: int | None) -> int | None:
    """The steps that the budget allows, None if it is limited by what cannot be known beforehand."""
    limits = []
    if not budget.tells_steps:
        return None
    if budget.steps is not None:
        limits.append(budget.steps)
    if budget.samples is not None:
        limits.append(math.ceil(budget.samples / effective_batch))
    if budget.epochs is not None and steps_per_epoch is not None:
        limits.append(math.ceil(budget.epochs * steps_per_epoch - 1e-9))
    return min(limits, default=None)


def schedule(recipe: Recipe) -> Callable[[float], float]:
    """The factor of the learning rate as a function of the share of the budget that is used.

    transformers' schedules, read on a scale of the budget: so they fit a budget of seconds as well as of steps.
    """
    train = recipe.train
    name = "constant_with_warmup" if train.schedule == "constant" else train.schedule
    scheduler = get_scheduler(
        name,
        torch.optim.SGD([torch.zeros(1)], lr=1.0),
        num_warmup_steps=round(train.warmup_ratio * TICKS),
        num_training_steps=TICKS,
    )
    factor: Callable[[float], float] = scheduler.lr_lambdas[0]
    # A step's rate is that of its beginning, as in transformers: the first one of a warm-up changes nothing.
    return lambda share: factor(min(share, 1.0) * TICKS)


class Marks:
    """Says when something is due next, from ``"100 steps"``, ``"0.5 epochs"``, ``"10%"``, ``"20 log"`` or ``"off"``."""

    def __init__(self, every: str, budget: BudgetTable) -> None:
        self.number, self.unit = (math.inf, "steps") if every == "off" else interval(every)
        self.budget = budget
        self.passed = 0

    def due(self, used: Used) -> bool:
        """Whether a mark has been passed since the last time this said so."""
        share = progress(self.budget, used)
        if self.unit == "log":
            along = 1 - math.log(share) / math.log(FIRST) if share >= FIRST else -1.0
            passed = math.floor(along * (self.number - 1) + 1 + 1e-9)
        else:
            amount = {"steps": used.step, "epochs": used.epoch, "%": 100 * share}[self.unit]
            passed = math.floor(amount / self.number + 1e-9)
        if passed <= self.passed:
            return False
        self.passed = passed
        return True
