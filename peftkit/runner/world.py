"""The Accelerator, and the guard that the world that was asked for is the world that is there."""

from __future__ import annotations

import logging
import os
import warnings

import psutil
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import gather_object, is_deepspeed_available

from peftkit.errors import RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe
from peftkit.runner.tracking import trackers

LAUNCH_CPU = (
    "ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 accelerate launch --multi_gpu --num_processes {n} --num_machines 1 "
    "--mixed_precision no --dynamo_backend no --main_process_port 0 -m peftkit RECIPE"
)

SHARDED = ("DEEPSPEED", "FSDP")


def open_world(recipe: Recipe, registry: Registry) -> Accelerator:
    """Joins the processes of the launch.

    Raises:
        RunError: processes were launched that do not know of each other, or that disagree on the recipe or the
            plugins, or the precision cannot be had on this device.
    """
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if recipe.train.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise RunError('train.mixed_precision = "fp16" needs a GPU; on a CPU use "bf16" or "no"')
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true" and not is_deepspeed_available():
        raise RunError("the launch asks for DeepSpeed, which is not installed: pip install 'peftkit[deepspeed]'")
    accelerator = Accelerator(
        mixed_precision=recipe.train.mixed_precision,
        log_with=trackers(recipe) or None,
        project_dir=recipe.run.output,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, dispatch_batches=False),
    )
    if accelerator.num_processes != asked:
        raise RunError(
            f"{asked} processes were launched, but each trains alone; on a CPU launch with: "
            f"{LAUNCH_CPU.format(n=asked)}"
        )
    wanted = _processes_of_the_launch()
    if wanted > accelerator.num_processes:
        raise RunError(
            f"`accelerate launch` was asked for {wanted} processes and started one; on a CPU launch with: "
            f"{LAUNCH_CPU.format(n=wanted)}"
        )
    for name in SHARDED:
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" and accelerator.distributed_type != name:
            raise RunError(
                f"the launch asks for {name}, and something turned it off (ACCELERATE_USE_CPU=true does); unset that, "
                f"or launch without {name}"
            )
    if accelerator.num_processes > 1:
        views = gather_object([(dump_recipe(recipe), sorted(registry.distributions.items()))])
        if any(view != views[0] for view in views):
            raise RunError("the processes read different recipes or plugins; install the same everywhere")
    return accelerator


def _processes_of_the_launch() -> int:
    """What ``accelerate launch`` was told by ``--num_processes``: with ``--cpu`` it starts one and says nothing."""
    try:
        words = psutil.Process().parent().cmdline()  # type: ignore[union-attr]
    except (psutil.Error, AttributeError):
        return 1
    if not all(any(part in word for word in words) for part in ("accelerate", "launch")):
        return 1
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name in ("--num_processes", "--num-processes"):
            number = value or following
            return int(number) if number.isdigit() else 1
    return 1


def quiet_libraries(level: str) -> None:
    """Lets the libraries say only what the log level asks for: their bars and hints would tear the table."""
    import datasets
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if level in ("warning", "error"):
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        warnings.filterwarnings("ignore", module=r"(torch|transformers|peft|accelerate|datasets)\.")
        for name in ("accelerate", "peft", "datasets", "torch"):
            logging.getLogger(name).setLevel(logging.ERROR)
