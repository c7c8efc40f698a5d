"""The DeepSpeed configuration of a recipe, and what is incompatible with sharded weights."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from peftkit.components import Method
from peftkit.components.options.declared_options import SourceLibrary
from peftkit.errors import comma_separated, did_you_mean
from peftkit.recipe.config import Recipe
from peftkit.recipe.toml_lines import KeyPath

ELEMENTWISE = ("adadelta", "adagrad", "adam", "adamax", "adamw", "asgd", "nadam", "radam", "rmsprop", "rprop", "sgd")
"""Elementwise optimizers: they work on the flattened shards of ZeRO, which have no shapes and norms of parameters."""
OFFLOADS = ("offload_optimizer", "offload_param")
"""Tables of ``zero_optimization``."""
TABLE: KeyPath = ("train", "deepspeed")


def deepspeed_config(recipe: Recipe) -> dict[str, Any]:
    """Build the DeepSpeed configuration: the settings of the file, overridden by the recipe.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a JSON object.
    """
    train, options = recipe.train, recipe.train.deepspeed
    file = _read_config(options.config) if options.config else {}
    zero = {**file.get("zero_optimization", {}), "stage3_gather_16bit_weights_on_model_save": True}
    if options.stage is not None:
        zero["stage"] = options.stage
    devices = {"offload_optimizer": options.offload_optimizer, "offload_param": options.offload_parameters}
    for key, device in devices.items():
        if device != "none":
            zero[key] = {**zero.get(key, {}), "device": device}
    return {
        **file,
        "zero_optimization": {"stage": 0, **zero},
        "train_micro_batch_size_per_gpu": train.batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "gradient_clipping": train.max_grad_norm,
        "bf16": {**file.get("bf16", {}), "enabled": train.mixed_precision == "bf16"},
        "fp16": {**file.get("fp16", {}), "enabled": train.mixed_precision == "fp16"},
        # Use the recipe's optimizer, also where its state is offloaded.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def sharding_conflicts(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Yield the keys that are incompatible with DeepSpeed or FSDP, with the reason."""
    train, options = recipe.train, recipe.train.deepspeed
    if train.fsdp and options.used:
        yield ("train", "fsdp"), "FSDP and DeepSpeed cannot be combined; use one"
    if train.fsdp and train.optimizer.lower() not in ELEMENTWISE:
        text = f"{train.optimizer} is not supported on sharded weights; use one of {comma_separated(ELEMENTWISE)}"
        yield ("train", "optimizer"), text
    if not options.used:
        for key in ("offload_optimizer", "offload_parameters"):
            if getattr(options, key) != "none":
                yield (*TABLE, key), "is used only with DeepSpeed; set train.deepspeed.stage, or leave it out"
        return
    try:
        config = deepspeed_config(recipe)
        file = _read_config(options.config) if options.config else {}
    except (OSError, ValueError) as error:
        yield (*TABLE, "config"), f"cannot be read: {error}"
        return
    yield from _file_conflicts(recipe, file)
    stage = _read_table(file, "zero_optimization").get("stage")
    if options.stage is not None and stage not in (None, options.stage):
        yield (*TABLE, "stage"), f"is {options.stage}, and {stage} in the file; make them equal"
    if options.offload_parameters != "none" and config["zero_optimization"]["stage"] != 3:
        yield (*TABLE, "offload_parameters"), "offloads weights at stage 3 only; set train.deepspeed.stage = 3"
    if options.offload_optimizer != "none" and not config["zero_optimization"]["stage"]:
        yield (*TABLE, "offload_optimizer"), "offloads from stage 1 on; set train.deepspeed.stage"
    if config["zero_optimization"]["stage"] and train.optimizer.lower() not in ELEMENTWISE:
        text = f"ZeRO flattens parameters, which changes the updates of {train.optimizer}; use one of "
        text += f"{comma_separated(ELEMENTWISE)}, or train.deepspeed.stage = 0"
        yield ("train", "optimizer"), text
    if train.on_nan == "skip":
        yield ("train", "on_nan"), 'DeepSpeed cannot discard the gradients of a step; use "stop"'
    if type(recipe.method).after_backward is not Method.after_backward:
        text = f"{recipe.method.name!r} reads gradients before the step, which DeepSpeed does not expose"
        yield (*TABLE, "stage"), f"{text}; train without DeepSpeed"


def _file_conflicts(recipe: Recipe, file: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield the settings of the DeepSpeed file that contradict the recipe."""
    train = recipe.train
    for key, value, name in (
        ("gradient_clipping", train.max_grad_norm, "train.max_grad_norm"),
        ("train_micro_batch_size_per_gpu", train.batch_size, "train.batch_size"),
        ("gradient_accumulation_steps", train.gradient_accumulation_steps, "train.gradient_accumulation_steps"),
    ):
        if file.get(key, "auto") not in ("auto", value):
            yield (*TABLE, "config"), f"{key} is {file[key]} in the file, and {name} is {value}; make them equal"
    for key in ("optimizer", "scheduler", "train_batch_size"):
        if file.get(key, "auto") != "auto":
            yield (*TABLE, "config"), f"the recipe sets the {key.replace('_', ' ')}; remove {key!r} from the file"
    known = _zero_keys()
    for key in _read_table(file, "zero_optimization"):
        if known and key not in known:
            text = f"zero_optimization has no key {key!r}{did_you_mean(key, known)}; DeepSpeed takes"
            yield (*TABLE, "config"), f"{text} {comma_separated(known)}"
    for precision in ("bf16", "fp16"):
        enabled = _read_table(file, precision).get("enabled", "auto")
        if enabled != "auto" and enabled != (train.mixed_precision == precision):
            text = f"{precision}.enabled is {json.dumps(enabled)} in the file, and train.mixed_precision"
            yield (*TABLE, "config"), f"{text} is {train.mixed_precision!r}; make them equal"


def _read_config(path: str) -> dict[str, Any]:
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a JSON object")
    for table in (("zero_optimization",), ("bf16",), ("fp16",), *(("zero_optimization", key) for key in OFFLOADS)):
        value: Any = config
        for key in table:
            value = value.get(key, {})
        if not isinstance(value, dict):
            raise ValueError(f"{'.'.join(table)} must be an object, not {json.dumps(value)}")
    stage = config.get("zero_optimization", {}).get("stage", 0)
    if type(stage) is not int or stage not in range(4):
        raise ValueError(f"zero_optimization.stage must be one of 0, 1, 2, 3, not {json.dumps(stage)}")
    return config


@cache
def _zero_keys() -> tuple[str, ...]:
    """The keys of ``zero_optimization``, read from DeepSpeed's source; none if it is not installed."""
    library = SourceLibrary("deepspeed")
    try:
        config = library.module(library.folder / "runtime" / "zero" / "config.py").find_class("DeepSpeedZeroConfig")
    except (ImportError, OSError, SyntaxError):
        return ()
    if config is None:
        return ()
    aliases = [
        keyword.value.value
        for keyword in ast.walk(config.node)
        if isinstance(keyword, ast.keyword) and keyword.arg == "alias" and isinstance(keyword.value, ast.Constant)
    ]
    return (*config.options(), *map(str, aliases))


def _read_table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = config.get(key)
    return table if isinstance(table, Mapping) else {}
