"""The Accelerator, and the guard that the world that was asked for is the world that is there."""

from __future__ import annotations

import logging
import os
import warnings

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import gather_object

from peftkit.errors import RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe
from peftkit.runner.tracking import trackers

LAUNCH_CPU = (
    "ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 accelerate launch --multi_gpu --num_processes {n} --num_machines 1 "
    "--mixed_precision no --dynamo_backend no --main_process_port 0 -m peftkit RECIPE"
)


def open_world(recipe: Recipe, registry: Registry) -> Accelerator:
    """Joins the processes of the launch.

    Raises:
        RunError: processes were launched that do not know of each other, or that disagree on the recipe or the
            plugins, or the precision cannot be had on this device.
    """
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if recipe.train.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise RunError('train.mixed_precision = "fp16" needs a GPU; on a CPU use "bf16" or "no"')
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
    if accelerator.num_processes > 1:
        views = gather_object([(dump_recipe(recipe), sorted(registry.distributions.items()))])
        if any(view != views[0] for view in views):
            raise RunError("the processes read different recipes or plugins; install the same everywhere")
    return accelerator


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
