"""Finds the options of the optimizer that it does not take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter, ValidationError

from peftkit.errors import comma_separated, did_you_mean
from peftkit.recipe.messages.type_names import describe_type, format_value
from peftkit.recipe.optimizer_names import optimizer_arguments
from peftkit.recipe.partial_recipe import known
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.toml_lines import KeyPath


def optimizer_conflicts(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Find the options that the optimizer does not take, and those that the run sets itself.

    Args:
        recipe: The recipe.
    """
    train = recipe.train
    has_weight_decay = False
    with known():
        has_weight_decay = train.weight_decay > 0
    arguments = optimizer_arguments(train.optimizer) if train.optimizer_options or has_weight_decay else {}
    if not arguments:
        return
    set_by_run = {"params": "is set by the run; leave it out", "lr": "is set by train.learning_rate; leave it out"}
    if has_weight_decay:
        set_by_run["weight_decay"] = "is set by train.weight_decay; leave it out"
        if "weight_decay" not in arguments:
            yield ("train", "weight_decay"), f"{train.optimizer} has no weight decay; set it to 0"
    for name, value in train.optimizer_options.items():
        problem = set_by_run.get(name, "")
        if name not in arguments:
            allowed = [argument for argument in arguments if argument not in set_by_run]
            takes = f"{train.optimizer} takes {comma_separated(allowed)}"
            problem = f"unknown option; {takes}{did_you_mean(name, allowed)}"
        elif not problem and not _is_valid(value, arguments[name]):
            problem = f"must be {describe_type(arguments[name])}, not {format_value(value)}"
        elif train.optimizer.lower() == "adafactor" and name in ("relative_step", "warmup_init") and value:
            problem = "must be false: the learning rate is train.learning_rate"
        if problem:
            yield ("train", "optimizer_options", name), problem


def _is_valid(value: Any, annotation: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True
