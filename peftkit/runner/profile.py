"""Where the time of a step goes."""

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

from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.runner.ledger import Ledger, Work
from peftkit.runner.rehearsal import rehearsal

WARM, STEPS = 3, 20
PARTS = ("data", "forward", "backward", "optimizer", "other")
COLLECTIVES = ("gloo:", "nccl:", "c10d::")
PEAK_SIZES = (512, 1024, 2048, 4096)
PEAK_SECONDS = 0.5
BATCHED = 8  # products between two looks at the clock


@dataclass(frozen=True)
class Profile:
    """The time of a step, of the main process."""

    name: str
    method: str
    model: str
    device: str
    threads: int
    processes: int
    steps: int
    seconds_per_step: dict[str, float]
    """By part: ``data``, ``forward``, ``backward``, ``optimizer``, and what is ``other``."""
    collective_seconds_per_step: float
    """Of these, spent by collective operations of several processes; most lie within ``backward``."""
    macs_per_second: float
    """Of this process's steps, the wait for data left out."""
    peak_macs_per_second: float
    """Of large products of matrices, in the precision that is trained in."""
    operations: list[tuple[str, float, int]]
    """The operations that take longest by themselves: their name, seconds a step, and calls a step."""


class Later:
    """Stands in for the ledger: counting is no part of a step, and waits until the profile is made."""

    optimizer = 0

    def __init__(self) -> None:
        self.passes: list[dict[str, Tensor]] = []

    def work(self, batch: dict[str, Tensor]) -> Work:
        """Keeps the batch."""
        self.passes.append(batch)
        return Work(0, 0, 0)


def profile_steps(recipe: Recipe, registry: Registry, trace: Path | None = None) -> Profile | None:
    """Makes steps of a recipe with weights of chance under torch's profiler.

    Each part ends by waiting for the device, so that the parts add up; a run, which does not wait, may be faster.

    Args:
        recipe: what to profile.
        registry: the installed components.
        trace: a file for the events, as Chrome's tracing and Perfetto read them.

    Returns:
        The profile; None on every process but the main one.

    Raises:
        RunError: the processes, the config or the data are not what training needs, or the trace cannot be written.
    """
    spent = dict.fromkeys(PARTS, 0.0)
    with rehearsal(recipe, registry) as rehearsed:
        training = rehearsed.training
        device = training.accelerator.device

        @contextmanager
        def region(name: str) -> Iterator[None]:
            began = time.perf_counter()
            with record_function(name):
                yield
                _wait(device)
            spent[name] += time.perf_counter() - began

        rehearsed.steps(WARM)
        training.passes.region = region
        ledger, later = training.ledger, Later()
        training.ledger = cast(Ledger, later)
        with profile(activities=_activities(device)) as profiler:
            records = rehearsed.steps(STEPS)
        macs = sum(work.forward_macs + work.backward_macs for work in map(ledger.work, later.passes))
        processes, main = training.accelerator.num_processes, training.accelerator.is_main_process
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
            recipe.train.mixed_precision, getattr(torch, recipe.model.dtype)
        )
        peak = matmul_peak(device, dtype)
    if not main:
        return None
    if trace is not None:
        profiler.export_chrome_trace(str(trace))
    total = sum(record.seconds for record in records)
    averages = profiler.key_averages()
    own = {event.key: max(event.self_cpu_time_total, event.self_device_time_total) / 1e6 for event in averages}
    calls = {event.key: event.count for event in averages}
    spent["data"] = sum(record.wait_seconds for record in records)
    spent["other"] = max(0.0, total - spent["forward"] - spent["backward"] - spent["optimizer"])
    longest = sorted((k for k in own if k not in PARTS), key=own.__getitem__, reverse=True)[:10]
    return Profile(
        name=recipe.run.name,
        method=recipe.method.name,
        model=recipe.model.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        processes=processes,
        steps=STEPS,
        seconds_per_step={part: seconds / STEPS for part, seconds in spent.items()},
        collective_seconds_per_step=sum(s for k, s in own.items() if k.startswith(COLLECTIVES)) / STEPS,
        macs_per_second=macs / total,
        peak_macs_per_second=peak,
        operations=[(key, own[key] / STEPS, round(calls[key] / STEPS)) for key in longest],
    )


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """The most multiply-accumulates a second that products of square matrices reach on the device."""
    best, began = 0.0, time.perf_counter()
    for size in PEAK_SIZES:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        left @ right
        _wait(device)
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(BATCHED):
                left @ right
            _wait(device)
            best = max(best, BATCHED * size**3 / (time.perf_counter() - start))
        if time.perf_counter() - began > PEAK_SECONDS:  # larger ones would take long on a CPU
            break
    return best


def _activities(device: torch.device) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
