"""The Accelerator, and the guard that the world that was asked for is the world that is there."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DeepSpeedPlugin,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    gather_object,
    is_deepspeed_available,
)
from torch import nn
from torch.utils import cpp_extension
from transformers.integrations import unset_hf_deepspeed_config

from peftkit.cache import use_writable_datasets_cache
from peftkit.errors import RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe
from peftkit.recipe.sharding import deepspeed_config
from peftkit.runner.launch import read_launch
from peftkit.runner.tracking import finish, trackers
from peftkit.runner.variables import restore_variables, set_variables_aside

LAUNCH_CPU = (
    "ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 accelerate launch --multi_gpu --num_processes {n} --num_machines 1 "
    "--mixed_precision no --dynamo_backend no --main_process_port 0 -m peftkit RECIPE"
)

SHARDED = ("DEEPSPEED", "FSDP")
BUILD_SECONDS = 900
"""Longer than any of DeepSpeed's kernels takes to compile."""


def open_world(recipe: Recipe, registry: Registry) -> Accelerator:
    """Joins the processes of the launch.

    Raises:
        RunError: processes were launched that do not know of each other, or that disagree on the recipe or the
            plugins, or the precision cannot be had on this device.
        InputError: an environment variable is set that changes numbers.
    """
    return _without_variables(lambda: _open_world(recipe, registry))


def make_accelerator(**options: Any) -> Accelerator:
    """An Accelerator of this process alone, on which no variable acts; ``close_world`` ends it.

    Args:
        options: what ``Accelerator`` takes.

    Raises:
        InputError: an environment variable is set that changes numbers.
    """
    return _without_variables(lambda: Accelerator(**options))


def _without_variables(make: Callable[[], Accelerator]) -> Accelerator:
    """Make an Accelerator on which no variable acts; they come back where that fails, or else with ``close_world``."""
    set_variables_aside()
    try:
        return make()
    except BaseException:
        restore_variables()
        raise


def _open_world(recipe: Recipe, registry: Registry) -> Accelerator:
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if recipe.train.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise RunError('train.mixed_precision = "fp16" needs a GPU; on a CPU use "bf16" or "no"')
    sharded = _fsdp(recipe) or _deepspeed(recipe)
    accelerator = Accelerator(
        mixed_precision=recipe.train.mixed_precision,
        log_with=trackers(recipe) or None,
        project_dir=recipe.run.output,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, dispatch_batches=False),
        **sharded,
    )
    if recipe.train.deepspeed.used:
        unset_hf_deepspeed_config()  # or transformers would shard a model before the method is applied
    if accelerator.num_processes != asked:
        raise RunError(
            f"{asked} processes were launched, but each trains alone; on a CPU launch with: "
            f"{LAUNCH_CPU.format(n=asked)}"
        )
    launch = read_launch()
    if launch.processes > accelerator.num_processes:
        where = f" by {launch.file}" if "num_processes" in launch.configuration else ""
        raise RunError(
            f"`accelerate launch` was asked for {launch.processes} processes{where} and started one; on a CPU launch "
            f"with: {LAUNCH_CPU.format(n=launch.processes)}"
        )
    for name in SHARDED:
        if _true(f"ACCELERATE_USE_{name}") and accelerator.distributed_type != name:
            raise RunError(
                f"the launch asks for {name}, and something turned it off (ACCELERATE_USE_CPU=true does); unset that, "
                f"or launch without {name}"
            )
    if accelerator.num_processes > 1:
        views = gather_object([(dump_recipe(recipe), sorted(registry.distributions.items()))])
        if any(view != views[0] for view in views):
            raise RunError("the processes read different recipes or plugins; install the same everywhere")
    return accelerator


def close_world(accelerator: Accelerator) -> None:
    """Leaves the world in order: without it a launch may die at its exit, and a second run in this process too."""
    finish(accelerator)
    accelerator.free_memory()  # first: DeepSpeed takes itself down with the help of the process group
    # The last to hold that group must not be what wraps the model: torch may wait for ever where that is freed.
    gc.collect()
    accelerator.end_training()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    restore_variables()


def same_weights(model: nn.Module) -> None:
    """Compares what the processes have loaded and made of it: training begins from the main one's weights alone.

    Raises:
        RunError: they differ.
    """
    if PartialState().num_processes == 1:
        return
    # Sums of bytes, since those of floats depend on the device's order.
    sums = [
        (name, p.shape, p.detach().flatten().view(torch.uint8).sum(dtype=torch.int64).item())
        for name, p in model.named_parameters()
    ]
    digests = gather_object([sha256(repr(sums).encode()).hexdigest()])
    different = [number for number, digest in enumerate(digests) if digest != digests[0]]
    if different:
        raise RunError(
            f"process {different[0]} holds other weights than the main one before training; give every machine the "
            "same model (model.revision pins one), and let the method draw nothing that torch's seed does not decide"
        )


def _fsdp(recipe: Recipe) -> dict[str, Any]:
    """What an Accelerator needs to train with FSDP2; nothing where the recipe does not ask for it."""
    launched = _true("ACCELERATE_USE_FSDP")
    if not (recipe.train.fsdp or launched):
        return {}
    if not recipe.train.fsdp:
        raise RunError("the launch asks for FSDP and the recipe does not; say train.fsdp = true in the recipe")
    if not torch.cuda.is_available() or _true("ACCELERATE_USE_CPU"):
        raise RunError(
            "train.fsdp needs GPUs: on a CPU accelerate would train with plain data parallelism in its place; set it "
            "to false, or take train.deepspeed"
        )
    if "RANK" not in os.environ:
        raise RunError(f"FSDP needs a launcher: {_launch(torch.cuda.device_count(), gpu=True)}")
    os.environ["ACCELERATE_USE_FSDP"] = "true"  # or the Accelerator takes the plugin and does not use it
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    return {"fsdp_plugin": plugin}


def _deepspeed(recipe: Recipe) -> dict[str, Any]:
    """What an Accelerator needs to train with DeepSpeed; nothing where the recipe does not ask for it."""
    launched = _true("ACCELERATE_USE_DEEPSPEED")
    if not (recipe.train.deepspeed.used or launched):
        return {}
    if not is_deepspeed_available():
        raise RunError("DeepSpeed is not installed: pip install 'peftkit[deepspeed]'")
    if not recipe.train.deepspeed.used:
        raise RunError("the launch asks for DeepSpeed and the recipe does not; say train.deepspeed.stage in the recipe")
    gpu = torch.cuda.is_available()
    if "RANK" not in os.environ:
        raise RunError(f"DeepSpeed needs a launcher, even for one process: {_launch(1, gpu=gpu)}")
    if _true("ACCELERATE_USE_CPU"):
        number = int(os.environ.get("WORLD_SIZE", "1"))
        raise RunError(f"ACCELERATE_USE_CPU=true turns DeepSpeed off; launch with: {_launch(number, gpu=False)}")
    if not gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _no_abandoned_build()
    plugin = DeepSpeedPlugin(hf_ds_config=deepspeed_config(recipe), zero3_init_flag=False)
    return {
        "deepspeed_plugin": plugin,
        # Left to itself it takes a library for CPUs that may not be there, and then each process trains alone.
        "kwargs_handlers": [] if gpu else [InitProcessGroupKwargs(backend="gloo")],
    }


def _no_abandoned_build() -> None:
    """Refuses where a compilation of DeepSpeed's kernels was killed: torch would wait for its lock for ever."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root())
    for lock in sorted({*root.glob("*/lock"), *root.glob("*/*/lock")}):
        try:
            age = time.time() - lock.stat().st_mtime
        except FileNotFoundError:
            continue  # that build has just ended
        if age > BUILD_SECONDS:
            raise RunError(
                f"{lock} says that DeepSpeed's kernels have been compiling for {age / 60:.0f} minutes; if no other run "
                "is at it, a compilation was killed: delete that file"
            )


def _launch(processes: int, *, gpu: bool) -> str:
    options = f"--num_processes {processes} --num_machines 1 --mixed_precision no --dynamo_backend no"
    return f"{'' if gpu else 'OMP_NUM_THREADS=1 '}accelerate launch --multi_gpu {options} -m peftkit RECIPE"


def _true(variable: str) -> bool:
    """Whether a variable is on, by any of the words that one of the libraries takes for it."""
    return os.environ.get(variable, "").strip().lower() in ("1", "true", "yes", "y", "t", "on")


def quiet_libraries(level: str) -> None:
    """Lets the libraries say only what the log level asks for: their bars and hints would tear the table."""
    import datasets
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    use_writable_datasets_cache()
    deepspeed = logging.getLogger("DeepSpeed")  # which sets its own level and handler whenever something imports it
    deepspeed.addFilter(_off_stdout)
    if level in ("warning", "error"):
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        warnings.filterwarnings("ignore", module=r"(torch|transformers|peft|accelerate|datasets)\.")
        for name in ("accelerate", "peft", "datasets", "torch"):
            logging.getLogger(name).setLevel(logging.ERROR)
        deepspeed.addFilter(_is_error)


def _off_stdout(record: logging.LogRecord) -> bool:
    """Moves a logger's messages to standard error: standard output has results, which other programs read."""
    for handler in logging.getLogger(record.name).handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setStream(sys.stderr)
    return True


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
