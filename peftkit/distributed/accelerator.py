"""Creates and shuts down the Accelerator, and checks the launch."""

from __future__ import annotations

import gc
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
    is_deepspeed_available,
)
from accelerate.utils.memory import clear_device_cache
from torch import nn
from torch.utils import cpp_extension
from transformers.integrations import unset_hf_deepspeed_config

from peftkit.distributed.device_requirements import (
    DEEPSPEED_MISSING,
    device_problem,
    fsdp_problem,
    offloading_problem,
    precision_problem,
)
from peftkit.distributed.environment_variables import (
    ignore_environment_variables,
    read_world_size,
    restore_environment_variables,
)
from peftkit.distributed.launch_config import read_launch
from peftkit.errors import PeftkitError, RunError, summarize_error

LAUNCH_CPU = (
    "ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 accelerate launch --multi_gpu --num_processes {n} --num_machines 1 "
    "--mixed_precision no --dynamo_backend no --main_process_port 0 -m peftkit {command}"
)

SHARDED = ("DEEPSPEED", "FSDP")
BUILD_SECONDS = 900
"""Older build locks were abandoned: no kernel of DeepSpeed takes this long to compile."""


@dataclass(frozen=True)
class AcceleratorOptions:
    """Options of a run's Accelerator.

    Attributes:
        mixed_precision: As in a recipe's ``train.mixed_precision``.
        fsdp: Whether to shard with FSDP2.
        activation_offloading: Whether activations are kept in host memory.
        deepspeed: DeepSpeed's configuration; None to train without it.
        log_with: Accelerate's names of the trackers.
        project_dir: The folder that trackers write to.
        shared: What must be equal on all processes, such as the recipe and the plugins.
    """

    mixed_precision: str = "no"
    fsdp: bool = False
    activation_offloading: bool = False
    deepspeed: Mapping[str, Any] | None = None
    log_with: tuple[str, ...] = ()
    project_dir: str = "."
    shared: Any = None


def init_accelerator(options: AcceleratorOptions) -> Accelerator:
    """Create the Accelerator of a run; end it with ``shutdown``.

    Raises:
        RunError: The launched processes do not form one process group or differ in ``shared``, or the precision is
            not available on this device.
        InputError: An environment variable is set that changes numbers, or that Accelerate cannot read.
    """
    return _ignoring_variables(lambda: _init_accelerator(options))


def make_accelerator(**options: Any) -> Accelerator:
    """Create an Accelerator for a single process, unaffected by environment variables; end it with ``shutdown``.

    Args:
        options: Arguments of ``Accelerator``.

    Raises:
        InputError: An environment variable is set that changes numbers.
    """
    return _ignoring_variables(lambda: Accelerator(**options), single_process=True)


def _ignoring_variables(make: Callable[[], Accelerator], *, single_process: bool = False) -> Accelerator:
    """Make an Accelerator without the ignored variables.

    If it fails, the variables and Accelerate's state are restored, as ``shutdown`` does otherwise: half of a state
    would fail the next run of the process.

    Raises:
        RunError: Accelerate failed, for example on a variable of another launcher.
    """
    ignore_environment_variables(single_process=single_process)
    try:
        return make()
    except BaseException as error:
        _reset_state()
        if isinstance(error, Exception) and not isinstance(error, PeftkitError):
            raise RunError(f"the launch failed in Accelerate: {summarize_error(error)}") from error
        raise


def _init_accelerator(options: AcceleratorOptions) -> Accelerator:
    world_size = read_world_size()
    if problem := device_problem(os.environ.get("ACCELERATE_TORCH_DEVICE", "")):
        raise RunError(f"ACCELERATE_TORCH_DEVICE: {problem}; unset it")
    if problem := precision_problem(options.mixed_precision):
        raise RunError(problem)
    sharding = _fsdp_arguments(options) or _deepspeed_arguments(options)
    accelerator = Accelerator(
        mixed_precision=options.mixed_precision,
        log_with=list(options.log_with) or None,
        project_dir=options.project_dir,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, dispatch_batches=False),
        **sharding,
    )
    if options.activation_offloading and (problem := offloading_problem(accelerator.device.type)):
        raise RunError(problem)
    if options.deepspeed is not None:
        unset_hf_deepspeed_config()  # otherwise transformers shards the model before the method is applied
    if accelerator.num_processes != world_size:
        raise RunError(
            f"{world_size} processes were launched, but they do not form one process group; on a CPU launch with: "
            f"{LAUNCH_CPU.format(n=world_size, command=_command())}"
        )
    launch = read_launch()
    if launch.processes > accelerator.num_processes:
        source = f" by {launch.file}" if "num_processes" in launch.configuration else ""
        raise RunError(
            f"`accelerate launch` was configured for {launch.processes} processes{source} but started one; on a CPU "
            f"launch with: {LAUNCH_CPU.format(n=launch.processes, command=_command())}"
        )
    for name in SHARDED:
        if _is_on(f"ACCELERATE_USE_{name}") and accelerator.distributed_type != name:
            raise RunError(
                f"the launch asks for {name}, but it is turned off (for example by ACCELERATE_USE_CPU=true); unset "
                f"that variable, or launch without {name}"
            )
    if accelerator.num_processes > 1:
        per_process = gather_object([options.shared])
        if any(shared != per_process[0] for shared in per_process):
            raise RunError(
                "the recipe or the installed plugins differ between processes; use the same recipe and the same "
                "plugin versions on every machine"
            )
    return accelerator


def shutdown(accelerator: Accelerator) -> None:
    """Destroy the process group; without it a launch may crash at exit, and so may a second run in this process."""
    if accelerator.distributed_type == DistributedType.NO:
        gc.collect()
        clear_device_cache()
    else:
        accelerator.free_memory()  # first, because DeepSpeed needs the process group to shut down
        # The model's wrapper must not be the last reference to the process group: torch may hang when it is freed.
        gc.collect()
    accelerator.end_training()
    _reset_state()


def _reset_state() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    restore_environment_variables()


def run_on_main(accelerator: Accelerator, function: Callable[[], Any]) -> Any:
    """Call a function on the main process; return its result, or raise its error, on all processes.

    Args:
        accelerator: The Accelerator of the run.
        function: The function to call, without arguments.

    Raises:
        PeftkitError: The function raised it.
    """
    outcome: list[Any] = [None, None, 0]  # result, error message, exit code
    raised: PeftkitError | None = None
    if accelerator.is_main_process:
        try:
            outcome[0] = function()
        except PeftkitError as error:
            raised, outcome[1:] = error, [str(error), error.exit_code]
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    result, message, exit_code = outcome
    if message is not None:
        if raised is None:
            raised = PeftkitError(message)
            raised.exit_code = exit_code
        raise raised
    return result


def assert_same_weights(model: nn.Module) -> None:
    """Check that all processes start from the same weights, since DDP silently broadcasts those of the main process.

    Raises:
        RunError: The weights differ.
    """
    if PartialState().num_processes == 1:
        return
    # Sums of bytes, because sums of floats depend on the order of addition.
    sums = [
        (name, p.shape, p.detach().flatten().view(torch.uint8).sum(dtype=torch.int64).item())
        for name, p in model.named_parameters()
    ]
    digests = gather_object([sha256(repr(sums).encode()).hexdigest()])
    different = [number for number, digest in enumerate(digests) if digest != digests[0]]
    if different:
        raise RunError(
            f"process {different[0]} starts from other weights than the main process; use the same model on every "
            "machine (model.revision pins one) and a method that only draws from torch's seeded generator"
        )


def _fsdp_arguments(options: AcceleratorOptions) -> dict[str, Any]:
    """Return the arguments of an Accelerator that trains with FSDP2; empty if the recipe does not use it."""
    launched = _is_on("ACCELERATE_USE_FSDP")
    if not (options.fsdp or launched):
        return {}
    if not options.fsdp:
        raise RunError("the launch asks for FSDP, but the recipe does not; set train.fsdp = true in the recipe")
    if problem := fsdp_problem(on_cpu=_is_on("ACCELERATE_USE_CPU")):
        raise RunError(problem)
    if "RANK" not in os.environ:
        raise RunError(f"FSDP needs a launcher; launch with: {_launch_command(torch.cuda.device_count(), gpu=True)}")
    os.environ["ACCELERATE_USE_FSDP"] = "true"  # otherwise the Accelerator ignores the plugin
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    return {"fsdp_plugin": plugin}


def _deepspeed_arguments(options: AcceleratorOptions) -> dict[str, Any]:
    """Return the arguments of an Accelerator that trains with DeepSpeed; empty if the recipe does not use it."""
    launched = _is_on("ACCELERATE_USE_DEEPSPEED")
    if options.deepspeed is None and not launched:
        return {}
    if not is_deepspeed_available():
        raise RunError(DEEPSPEED_MISSING)
    if options.deepspeed is None:
        raise RunError(
            "the launch asks for DeepSpeed, but the recipe does not; set train.deepspeed.stage in the recipe"
        )
    gpu = torch.cuda.is_available()
    if "RANK" not in os.environ:
        raise RunError(f"DeepSpeed needs a launcher, even for one process; launch with: {_launch_command(1, gpu=gpu)}")
    if _is_on("ACCELERATE_USE_CPU"):
        raise RunError(
            f"ACCELERATE_USE_CPU=true turns DeepSpeed off; launch with: {_launch_command(read_world_size(), gpu=False)}"
        )
    if not gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _check_for_abandoned_builds()
    plugin = DeepSpeedPlugin(hf_ds_config=dict(options.deepspeed), zero3_init_flag=False)
    return {
        "deepspeed_plugin": plugin,
        # DeepSpeed's default backend for CPUs may not be installed, and then every process trains alone.
        "kwargs_handlers": [] if gpu else [InitProcessGroupKwargs(backend="gloo")],
    }


def _check_for_abandoned_builds() -> None:
    """Raise an error if a compilation of DeepSpeed's kernels was killed: torch would wait forever for its lock."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root())
    for lock in sorted({*root.glob("*/lock"), *root.glob("*/*/lock")}):
        try:
            age = time.time() - lock.stat().st_mtime
        except FileNotFoundError:
            continue  # the build has just finished
        if age > BUILD_SECONDS:
            raise RunError(
                f"{lock} is {age / 60:.0f} minutes old, which is longer than DeepSpeed's kernels take to compile; "
                "unless another run is compiling them, delete that file"
            )


def _launch_command(processes: int, *, gpu: bool) -> str:
    options = f"--num_processes {processes} --num_machines 1 --mixed_precision no --dynamo_backend no"
    return f"{'' if gpu else 'OMP_NUM_THREADS=1 '}accelerate launch --multi_gpu {options} -m peftkit {_command()}"


def _command() -> str:
    """Return the arguments of ``peftkit`` in this process, quoted for a shell."""
    is_peftkit = Path(sys.argv[0]).name == "peftkit" or Path(sys.argv[0]).parent.name == "peftkit"
    return shlex.join(sys.argv[1:]) if is_peftkit else "RECIPE"


def _is_on(variable: str) -> bool:
    """Return whether an environment variable is set to any value that one of the libraries reads as true."""
    return os.environ.get(variable, "").strip().lower() in ("1", "true", "yes", "y", "t", "on")
