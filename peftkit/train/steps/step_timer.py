"""Times training steps: by the clock of the host, or by events of the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

Seconds = float | Callable[[], float]
"""Seconds, or a function that waits for the device and returns them."""


class StepTime(NamedTuple):
    """How long a step took."""

    seconds: Seconds
    """From when the batch was available to when the device finished the step."""
    wait_seconds: Seconds
    """How long the step waited for its batch."""

    def read(self) -> tuple[float, float]:
        """Return both as numbers; waits for the device if steps are timed by events."""
        seconds, wait_seconds = (each() if callable(each) else each for each in self)
        return seconds, wait_seconds


class StepTimer:
    """Times the steps of a run.

    Args:
        device: The device.
        by_events: Whether steps are timed by events of the device, so that none waits until the device has finished.
        apart: Returns the seconds so far, of all steps, that are counted apart from them; None if there are none.
    """

    def __init__(self, device: torch.device, *, by_events: bool, apart: Callable[[], float] | None = None) -> None:
        self.device, self.by_events, self._read_apart = device, by_events, apart or (lambda: 0.0)
        self._apart = 0.0
        self._since = time.perf_counter()
        self._wait_seconds = 0.0
        self._start: torch.cuda.Event | None = None
        self._previous_end: torch.cuda.Event | None = None

    def start_waiting(self) -> None:
        """Start to wait for the batch of the next step."""
        self._since = time.perf_counter()

    def stop_waiting(self) -> None:
        """The batch is available."""
        self._wait_seconds = time.perf_counter() - self._since

    def start_step(self) -> None:
        """Start a step."""
        self._apart = self._read_apart()
        self._since = time.perf_counter()
        if self.by_events:
            self._start = _record()

    def end_step(self) -> StepTime:
        """End the step; waits for the device unless steps are timed by events."""
        apart = self._read_apart() - self._apart
        if not self.by_events:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            return StepTime(max(0.0, time.perf_counter() - self._since - apart), self._wait_seconds)
        start, before, waited = self._start, self._previous_end, self._wait_seconds
        self._previous_end = end = _record()

        def idle() -> float:
            # While the host waited for the batch, the device may still have computed the step before.
            return waited if before is None else min(waited, _seconds_between(before, start))

        return StepTime(lambda: max(0.0, _seconds_between(start, end) - apart), idle)


def _record() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _seconds_between(start: torch.cuda.Event | None, end: torch.cuda.Event | None) -> float:
    assert start is not None and end is not None  # both were recorded in end_step and start_step  # noqa: S101, PT018
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3  # type: ignore[no-untyped-call]
