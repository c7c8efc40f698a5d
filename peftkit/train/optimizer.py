"""Creates the optimizer of a recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.optimization import Adafactor

from peftkit.components.model_parts.head_parameters import is_head_parameter
from peftkit.errors import InputError
from peftkit.recipe import Recipe
from peftkit.recipe.optimizer_names import torch_optimizers
from peftkit.recipe.tables.train_config import TrainConfig

LR_MULTIPLIER = "lr_multiplier"
"""Key of a parameter group: its factor of the recipe's learning rate."""
FIXED_RATE = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
"""Adafactor (Shazeer and Stern, 2018) with the recipe's learning rate, as is usual for fine-tuning T5."""
FUSED = ("adam", "adamw")
"""Optimizers that are fused by default, as in `Trainer`: an update takes a fraction of the time."""
NOT_FUSED = {"foreach", "differentiable"}
"""Options of an optimizer that exclude a fused kernel."""


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Create the optimizer of the trainable parameters; biases and norms get no weight decay, as in transformers.

    Args:
        recipe: The recipe of the run.
        model: The model with the method applied.

    Raises:
        InputError: The optimizer rejects its options.
    """
    train = recipe.train
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = train.weight_decay if parameter.ndim > 1 else 0.0
            rate = (
                train.effective_head_learning_rate / train.learning_rate
                if is_head_parameter(parameter)
                else recipe.method.lr_multiplier(key)
            )
            groups.setdefault((rate, decay), []).append(parameter)
    # Set also where it is 0, since the default of some optimizers is not: that of AdamW is 0.01.
    sets_decay = "weight_decay" not in train.optimizer_options
    return _create(
        train,
        [
            {"params": parameters, LR_MULTIPLIER: rate, **({"weight_decay": decay} if sets_decay else {})}
            for (rate, decay), parameters in groups.items()
        ],
    )


def check_optimizer_options(recipe: Recipe) -> None:
    """Check the values of the optimizer's options, which needs no model.

    Raises:
        InputError: The optimizer rejects its options.
    """
    _create(recipe.train, [{"params": [nn.Parameter(torch.zeros(1, 1))]}])


def _create(train: TrainConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    name = train.optimizer.lower()
    if name == "adafactor":
        kind: Any = Adafactor
        defaults: dict[str, Any] = dict(FIXED_RATE)
    else:
        class_names = {key.lower(): key for key in torch_optimizers()}
        kind, defaults = getattr(torch.optim, class_names[name]), {}
    if "fused" not in train.optimizer_options and is_fused(train) and _on_devices_with_kernels(groups):
        defaults["fused"] = True
    options = {**defaults, "lr": train.learning_rate, **train.optimizer_options}
    try:
        optimizer: torch.optim.Optimizer = kind(groups, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"train.optimizer_options: {train.optimizer} does not accept them: {error}") from error
    return optimizer


def is_fused(train: TrainConfig) -> bool:
    """Whether one kernel updates each parameter, without intermediate results.

    Args:
        train: The recipe's ``[train]`` table.
    """
    if "fused" in train.optimizer_options:
        return bool(train.optimizer_options["fused"])
    return train.optimizer.lower() in FUSED and not NOT_FUSED & train.optimizer_options.keys()


def _on_devices_with_kernels(groups: list[dict[str, Any]]) -> bool:
    return all(parameter.device.type in ("cpu", "cuda") for group in groups for parameter in group["params"])


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups.

    Args:
        optimizer: An optimizer that ``make_optimizer`` created.
        rate: The learning rate, before the groups' multipliers.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(LR_MULTIPLIER, 1.0)
