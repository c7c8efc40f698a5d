"""DeepSpeed's configuration as the recipe says it, and what of a recipe cannot be done where weights are sharded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peftkit.errors import listed
from peftkit.recipe.positions import KeyPath
from peftkit.recipe.tables import Recipe

ELEMENTWISE = ("adadelta", "adagrad", "adam", "adamax", "adamw", "asgd", "nadam", "radam", "rmsprop", "rprop", "sgd")
"""Optimizers that treat each number for itself: ZeRO hands them flat pieces, of which shapes and norms are lost."""
TABLE: KeyPath = ("train", "deepspeed")


def deepspeed_config(recipe: Recipe) -> dict[str, Any]:
    """What DeepSpeed is told: the file's settings, and over them what the recipe says.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON object.
    """
    train, asked = recipe.train, recipe.train.deepspeed
    given = _file(asked.config) if asked.config else {}
    zero = {**given.get("zero_optimization", {}), "stage3_gather_16bit_weights_on_model_save": True}
    if asked.stage is not None:
        zero["stage"] = asked.stage
    for key, device in (("offload_optimizer", asked.offload_optimizer), ("offload_param", asked.offload_parameters)):
        if device != "none":
            zero[key] = {**zero.get(key, {}), "device": device}
    return {
        **given,
        "zero_optimization": {"stage": 0, **zero},
        "train_micro_batch_size_per_gpu": train.batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "gradient_clipping": train.max_grad_norm,
        "bf16": {**given.get("bf16", {}), "enabled": train.mixed_precision == "bf16"},
        "fp16": {**given.get("fp16", {}), "enabled": train.mixed_precision == "fp16"},
        # The recipe's optimizer is the one that trains, wherever its state lies.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def sharding_findings(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """What would not be done as the recipe says it."""
    train, asked = recipe.train, recipe.train.deepspeed
    if train.fsdp and asked.used:
        yield ("train", "fsdp"), "both FSDP and DeepSpeed would shard the model; take one"
    if train.fsdp and train.optimizer.lower() not in ELEMENTWISE:
        yield (
            ("train", "optimizer"),
            f"{train.optimizer} has not been tried on sharded weights; use one of {listed(list(ELEMENTWISE))}",
        )
    if not asked.used:
        return
    try:
        config = deepspeed_config(recipe)
        given = _file(asked.config) if asked.config else {}
    except (OSError, ValueError) as error:
        yield (*TABLE, "config"), f"cannot be read: {error}"
        return
    for key, right, where in (
        ("gradient_clipping", train.max_grad_norm, "train.max_grad_norm"),
        ("train_micro_batch_size_per_gpu", train.batch_size, "train.batch_size"),
        ("gradient_accumulation_steps", train.gradient_accumulation_steps, "train.gradient_accumulation_steps"),
    ):
        if given.get(key, "auto") not in ("auto", right):
            yield (*TABLE, "config"), f"{key} is {given[key]} in the file, and {where} is {right}; make them the same"
    for key in ("optimizer", "scheduler", "train_batch_size"):
        if given.get(key, "auto") != "auto":
            yield (*TABLE, "config"), f"the recipe says the {key.replace('_', ' ')}; take {key!r} out of the file"
    for precision in ("bf16", "fp16"):
        enabled = _table(given, precision).get("enabled", "auto")
        if enabled != "auto" and enabled != (train.mixed_precision == precision):
            text = f"{precision}.enabled is {json.dumps(enabled)} in the file, and train.mixed_precision"
            yield (*TABLE, "config"), f"{text} is {train.mixed_precision!r}; make them the same"
    stage = _table(given, "zero_optimization").get("stage")
    if asked.stage is not None and stage not in (None, asked.stage):
        yield (*TABLE, "stage"), f"is {asked.stage}, and {stage} in the file; make them the same"
    if config["zero_optimization"]["stage"] and train.optimizer.lower() not in ELEMENTWISE:
        text = f"ZeRO hands the optimizer flat pieces, in which {train.optimizer} would be another optimizer"
        yield ("train", "optimizer"), f"{text}; use one of {listed(list(ELEMENTWISE))}, or train.deepspeed.stage = 0"
    if train.on_nan == "skip":
        yield ("train", "on_nan"), 'DeepSpeed cannot take back the gradients of a step; use "stop"'
    if type(recipe.method).after_backward is not _untouched():
        text = f"{recipe.method.name!r} reads gradients before the step, and DeepSpeed keeps them to itself"
        yield (*TABLE, "stage"), f"{text}; train without DeepSpeed"


def _untouched() -> Any:
    from peftkit.components import Method

    return Method.after_backward


def _file(path: str) -> dict[str, Any]:
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found


def _table(given: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = given.get(key)
    return found if isinstance(found, Mapping) else {}
