"""Creates the learning-rate schedule of a recipe, over its budget."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import get_scheduler

from peftkit.recipe import Recipe

TICKS = 1_000_000
"""Steps into which the budget is divided for the schedules of transformers, which count steps."""


def make_schedule(recipe: Recipe) -> Callable[[float], float]:
    """Return the learning rate's factor as a function of the used share of the budget.

    The schedules of transformers are read on a scale of the budget, so that they suit a budget of seconds as well as
    one of steps.
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
    # A step has the rate of its start, as in transformers: the first step of a warm-up has a rate of 0.
    return lambda share: factor(min(share, 1.0) * TICKS)
