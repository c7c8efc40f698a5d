"""The DeepSpeed configuration of a recipe, and what is incompatible with sharded weights."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from peftkit.components.options.library_options import SourceLibrary
from peftkit.errors import comma_separated, did_you_mean
from peftkit.recipe.partial_recipe import InvalidKeyError, known
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.tables.train_config import TrainConfig
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
    zero = {**_zero_options(recipe, file), "stage3_gather_16bit_weights_on_model_save": True}
    return {
        **file,
        "zero_optimization": zero,
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
    train = recipe.train
    uses_deepspeed = _uses_deepspeed(train)
    with known():
        if train.fsdp and uses_deepspeed:
            yield ("train", "fsdp"), "FSDP and DeepSpeed cannot be combined; use one"
    with known():
        if train.activation_offloading and (train.fsdp or uses_deepspeed):
            text = "would move the weights that are gathered for each layer too; use it without FSDP and DeepSpeed"
            yield ("train", "activation_offloading"), text
    with known():
        if train.fsdp and train.optimizer.lower() not in ELEMENTWISE:
            text = f"{train.optimizer} is not supported on sharded weights; use one of {comma_separated(ELEMENTWISE)}"
            yield ("train", "optimizer"), text
    if not uses_deepspeed:
        for key in ("offload_optimizer", "offload_parameters"):
            with known():
                if getattr(train.deepspeed, key) != "none":
                    text = "is used only with DeepSpeed; set train.deepspeed.stage, or leave it out"
                    yield (*TABLE, key), text
        return
    with known():
        yield from _stage_conflicts(recipe)
    with known():
        if train.on_nan == "skip":
            yield ("train", "on_nan"), 'DeepSpeed cannot discard the gradients of a step; use "stop"'
    with known():
        if recipe.method.reads_gradients:
            text = f"{recipe.method.name!r} reads gradients before the step, which DeepSpeed does not expose"
            yield (*TABLE, "stage"), f"{text}; train without DeepSpeed"


def _uses_deepspeed(train: TrainConfig) -> bool:
    """Whether training uses DeepSpeed, which an invalid stage or file asks for too."""
    try:
        return train.deepspeed.used
    except InvalidKeyError:
        return True


def _stage_conflicts(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Yield what contradicts the stage and the file of DeepSpeed."""
    train, options = recipe.train, recipe.train.deepspeed
    file: dict[str, Any] | None = None  # unknown
    with known():
        try:
            file = _read_config(options.config) if options.config else {}
        except (OSError, ValueError) as error:
            yield (*TABLE, "config"), f"cannot be read: {error}"
    if file is None and options.stage is None:
        return
    file = file or {}
    yield from _file_conflicts(recipe, file)
    in_file = _read_table(file, "zero_optimization").get("stage")
    if options.stage is not None and in_file not in (None, options.stage):
        yield (*TABLE, "stage"), f"is {options.stage}, and {in_file} in the file; make them equal"
    stage = _zero_options(recipe, file)["stage"]
    with known():
        if options.offload_parameters != "none" and stage != 3:
            yield (*TABLE, "offload_parameters"), "offloads weights at stage 3 only; set train.deepspeed.stage = 3"
    with known():
        if options.offload_optimizer != "none" and not stage:
            yield (*TABLE, "offload_optimizer"), "offloads from stage 1 on; set train.deepspeed.stage"
    with known():
        if stage and train.optimizer.lower() not in ELEMENTWISE:
            text = f"ZeRO flattens parameters, which changes the updates of {train.optimizer}; use one of "
            text += f"{comma_separated(ELEMENTWISE)}, or train.deepspeed.stage = 0"
            yield ("train", "optimizer"), text


def _zero_options(recipe: Recipe, file: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table ``zero_optimization``: that of the file, overridden by the recipe."""
    options = recipe.train.deepspeed
    zero = {"stage": 0, **file.get("zero_optimization", {})}
    if options.stage is not None:
        zero["stage"] = options.stage
    for key, option in (("offload_optimizer", "offload_optimizer"), ("offload_param", "offload_parameters")):
        with known():
            if (device := getattr(options, option)) != "none":
                zero[key] = {**zero.get(key, {}), "device": device}
    return zero


def _file_conflicts(recipe: Recipe, file: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield the settings of the DeepSpeed file that contradict the recipe."""
    for key, name in (
        ("gradient_clipping", "max_grad_norm"),
        ("train_micro_batch_size_per_gpu", "batch_size"),
        ("gradient_accumulation_steps", "gradient_accumulation_steps"),
    ):
        with known():
            if file.get(key, "auto") not in ("auto", value := getattr(recipe.train, name)):
                text = f"{key} is {file[key]} in the file, and train.{name} is {value}; make them equal"
                yield (*TABLE, "config"), text
    for key in ("optimizer", "scheduler", "train_batch_size"):
        if file.get(key, "auto") != "auto":
            yield (*TABLE, "config"), f"the recipe sets the {key.replace('_', ' ')}; remove {key!r} from the file"
    keys = _zero_keys()
    for key in _read_table(file, "zero_optimization"):
        if keys and key not in keys:
            text = f"zero_optimization has no key {key!r}{did_you_mean(key, keys)}; DeepSpeed takes"
            yield (*TABLE, "config"), f"{text} {comma_separated(keys)}"
    for precision in ("bf16", "fp16"):
        enabled = _read_table(file, precision).get("enabled", "auto")
        with known():
            if enabled != "auto" and enabled != (recipe.train.mixed_precision == precision):
                text = f"{precision}.enabled is {json.dumps(enabled)} in the file, and train.mixed_precision"
                yield (*TABLE, "config"), f"{text} is {recipe.train.mixed_precision!r}; make them equal"


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
