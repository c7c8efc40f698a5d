"""Profile where the time of a training step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from peftkit.analysis.dry_run import dry_run
from peftkit.macs.mac_counter import MacCounter, StepMacs
from peftkit.plugins import Registry
from peftkit.recipe import Recipe

WARMUP_STEPS, STEPS = 3, 20
PARTS = ("data", "forward", "backward", "optimizer", "other")
COLLECTIVES = ("gloo:", "nccl:", "c10d::")
PEAK_SIZES = (512, 1024, 2048, 4096)
PEAK_SECONDS = 0.5
PRODUCTS_PER_TIMING = 8  # matrix products per time measurement


@dataclass(frozen=True)
class StepProfile:
    """The mean time of a step in the main process."""

    name: str
    method: str
    model: str
    device: str
    threads: int
    processes: int
    steps: int
    seconds_per_step: dict[str, float]
    """By part: ``data``, ``forward``, ``backward``, ``optimizer`` and ``other``."""
    collective_seconds_per_step: float
    """Seconds of collective operations between processes, most of them within ``backward``."""
    macs_per_second: float
    """Multiply-accumulates per second of this process, without the time spent waiting for data."""
    peak_macs_per_second: float
    """Multiply-accumulates per second of large matrix products in the precision of training."""
    operations: list[tuple[str, float, int]]
    """The operations with the most self time: name, seconds per step, calls per step."""


class DeferredCounter:
    """Store batches instead of counting them, so that counting is not profiled."""

    optimizer_elementwise = 0

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def count(self, batch: dict[str, Tensor]) -> StepMacs:
        """Store the batch."""
        self.batches.append(batch)
        return StepMacs(0, 0, 0)


def profile_steps(recipe: Recipe, registry: Registry, trace: Path | None = None) -> StepProfile | None:
    """Run steps of a recipe with random weights under torch's profiler.

    Each part ends by synchronizing the device, so that the parts add up; real runs do not synchronize and may be
    faster.

    Args:
        recipe: The recipe to profile.
        registry: The installed components.
        trace: Where to write the trace, for Perfetto or Chrome's tracing.

    Returns:
        The profile; None in all processes except the main one.

    Raises:
        RunError: The processes, config or data are not usable for training, or the trace cannot be written.
    """
    seconds_by_part = dict.fromkeys(PARTS, 0.0)
    with dry_run(recipe, registry) as steps:
        trainer = steps.trainer
        device = trainer.accelerator.device

        @contextmanager
        def region(name: str) -> Iterator[None]:
            start = time.perf_counter()
            with record_function(name):
                yield
                _synchronize(device)
            seconds_by_part[name] += time.perf_counter() - start

        steps.run(WARMUP_STEPS)
        trainer.train_step.profile_region = region
        mac_counter, deferred = trainer.mac_counter, DeferredCounter()
        trainer.mac_counter = cast(MacCounter, deferred)
        with profile(activities=_activities(device)) as profiler:
            stats = steps.run(STEPS)
        macs = sum(m.forward_macs + m.backward_macs for m in map(mac_counter.count, deferred.batches))
        processes, main = trainer.accelerator.num_processes, trainer.accelerator.is_main_process
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
            recipe.train.mixed_precision, getattr(torch, recipe.model.dtype)
        )
        peak = matmul_peak(device, dtype)
    if not main:
        return None
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
    total = sum(step.seconds for step in stats)
    averages = profiler.key_averages()
    self_seconds = {event.key: max(event.self_cpu_time_total, event.self_device_time_total) / 1e6 for event in averages}
    calls = {event.key: event.count for event in averages}
    seconds_by_part["data"] = sum(step.wait_seconds for step in stats)
    computing = seconds_by_part["forward"] + seconds_by_part["backward"] + seconds_by_part["optimizer"]
    seconds_by_part["other"] = max(0.0, total - computing)
    longest = sorted((k for k in self_seconds if k not in PARTS), key=self_seconds.__getitem__, reverse=True)[:10]
    return StepProfile(
        name=recipe.run.name,
        method=recipe.method.name,
        model=recipe.model.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        processes=processes,
        steps=STEPS,
        seconds_per_step={part: part_seconds / STEPS for part, part_seconds in seconds_by_part.items()},
        collective_seconds_per_step=sum(s for k, s in self_seconds.items() if k.startswith(COLLECTIVES)) / STEPS,
        macs_per_second=macs / total,
        peak_macs_per_second=peak,
        operations=[(key, self_seconds[key] / STEPS, round(calls[key] / STEPS)) for key in longest],
    )


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the highest rate of square matrix products on the device.

    Args:
        device: The device.
        dtype: The data type of the matrices.

    Returns:
        Multiply-accumulates per second.
    """
    best, measuring_since = 0.0, time.perf_counter()
    for size in PEAK_SIZES:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        left @ right
        _synchronize(device)
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(PRODUCTS_PER_TIMING):
                left @ right
            _synchronize(device)
            best = max(best, PRODUCTS_PER_TIMING * size**3 / (time.perf_counter() - start))
        if time.perf_counter() - measuring_since > PEAK_SECONDS:  # larger sizes would take long on a CPU
            break
    return best


def _activities(device: torch.device) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
