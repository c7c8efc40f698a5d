"""Profile where the time of a training step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from peftkit.analysis.dry_run import dry_run
from peftkit.components import StepResult, StepStats, TrainContext
from peftkit.macs.interpolated_counts import StepMacs
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.train.build_mac_counter import StepCounter
from peftkit.train.callbacks import LoopCallback
from peftkit.train.trainer import Trainer

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
    """Keeps the microbatches and counts them later, so that counting is not profiled.

    Args:
        counter: Counts them later.
    """

    optimizer_elementwise = 0

    def __init__(self, counter: StepCounter) -> None:
        self.counter, self.seconds = counter, 0.0
        self.microbatches: list[dict[str, Tensor]] = []

    def count(self, batch: dict[str, Tensor]) -> StepMacs:
        """Keep the microbatch."""
        self.microbatches.append(batch)
        return StepMacs(0, 0, 0)

    def count_kept(self) -> int:
        """Return the multiply-accumulates of the microbatches so far."""
        counts = map(self.counter.count, self.microbatches)
        return sum(macs.forward_macs + macs.backward_macs for macs in counts)


class StepProfiler(LoopCallback):
    """Profiles the steps after the warm-up, including the wait for their batches."""

    profiler: profile
    counter: DeferredCounter

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        """Seconds by part of the step, over all profiled steps."""
        self.stats: list[StepStats] = []
        """The statistics of the profiled steps."""
        self._profiling = False

    def attach(self, trainer: Trainer) -> None:
        """Let the trainer count MACs later."""
        super().attach(trainer)
        trainer.mac_counter = self.counter = DeferredCounter(trainer.mac_counter)

    def on_step_end(self, context: TrainContext, step: StepResult) -> None:
        if self._profiling:
            self.stats.append(step.stats)
        if context.step == WARMUP_STEPS:
            self.profiler = profile(activities=_activities(self.trainer.accelerator.device))
            self.profiler.start()
            self._profiling = True
            self.counter.microbatches.clear()

    def on_train_end(self, context: TrainContext) -> None:
        self.profiler.stop()

    @contextmanager
    def profile_region(self, name: str) -> Iterator[None]:
        """Time a part of the step until the device has finished it."""
        start = time.perf_counter()
        with record_function(name):
            yield
            _synchronize(self.trainer.accelerator.device)
        if self._profiling:
            self.seconds[name] += time.perf_counter() - start


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
    profiler = StepProfiler()
    with dry_run(recipe, registry, WARMUP_STEPS + STEPS, [profiler]) as trainer:
        device = trainer.accelerator.device
        trainer.train()
        macs = profiler.counter.count_kept()
        processes, main = trainer.accelerator.num_processes, trainer.accelerator.is_main_process
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
            recipe.train.mixed_precision, getattr(torch, recipe.model.dtype)
        )
        peak = matmul_peak(device, dtype)
    if not main:
        return None
    if trace is not None:
        profiler.profiler.export_chrome_trace(str(trace))
    stats, seconds_by_part = profiler.stats, profiler.seconds
    total = sum(step.seconds for step in stats)
    averages = profiler.profiler.key_averages()
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
