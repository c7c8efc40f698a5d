"""The optimizer that a recipe names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.optimization import Adafactor

from peftkit.errors import InputError
from peftkit.head import is_head
from peftkit.recipe import Recipe
from peftkit.recipe.names import torch_optimizers

RATE = "times"
"""The key of a group of parameters that says how many times the recipe's learning rate it learns with."""
FIXED_RATE = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
"""Adafactor (Shazeer and Stern, 2018) at the rate that the recipe says, as the starting system used it for T5."""


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over what the model trains; weight decay spares biases and norms, as in transformers.

    Raises:
        InputError: the optimizer does not take the options.
    """
    train = recipe.train
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = train.weight_decay if parameter.ndim > 1 else 0.0
            rate = train.head_rate / train.learning_rate if is_head(parameter) else recipe.method.rate(key)
            groups.setdefault((rate, decay), []).append(parameter)
    name = train.optimizer.lower()
    if name == "adafactor":
        kind: Any = Adafactor
        defaults: dict[str, Any] = dict(FIXED_RATE)
    else:
        known = {key.lower(): key for key in torch_optimizers()}
        kind, defaults = getattr(torch.optim, known[name]), {}
    options = {**defaults, "lr": train.learning_rate, **train.optimizer_options}
    try:
        optimizer: torch.optim.Optimizer = kind(
            [
                {"params": parameters, RATE: rate, **({"weight_decay": decay} if train.weight_decay else {})}
                for (rate, decay), parameters in groups.items()
            ],
            **options,
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"train.optimizer_options: {train.optimizer} says: {error}") from error
    return optimizer
