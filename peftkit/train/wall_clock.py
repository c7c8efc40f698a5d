"""Measures how long a user has waited for a run, and how long its end will take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def process_start() -> float:
    """Return when this process was started, on the clock of ``time.monotonic``."""
    now = time.monotonic()
    with suppress(OSError, ValueError, IndexError, AttributeError):  # exact to a hundredth of a second; Linux only
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return now - (time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    import psutil

    return now - max(0.0, time.time() - float(psutil.Process().create_time()))


class WallClock:
    """The time that a user has waited for a run, over all of its processes, and what its end will take.

    The end of a run is one more step, a checkpoint, an evaluation, the evaluation of the selected checkpoint, and
    saving. It is expected to take as long as the slowest ones so far.

    Args:
        started: When the wait began, on the clock of ``time.monotonic``; None for now.
    """

    def __init__(self, started: float | None = None) -> None:
        self._started = time.monotonic() if started is None else started
        self.before_run = time.monotonic() - self._started
        """Seconds before this process had what it needs to run: the libraries, and the inputs that runs share."""
        self.earlier = 0.0
        """Seconds in earlier processes of the run, up to the checkpoint that it is resumed from."""
        self.before_training = 0.0
        """Seconds before the first step."""
        self._longest: dict[str, float] = {}
        self._evaluations: dict[str, tuple[int, float]] = {}
        """The slowest evaluation of each split: its rows and its seconds."""
        self._steps, self._step_seconds = 0, 0.0

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return self.earlier + time.monotonic() - self._started

    @property
    def knows_evaluation(self) -> bool:
        """Whether it is known how long an evaluation takes."""
        return bool(self._evaluations)

    @contextmanager
    def time_step(self) -> Iterator[None]:
        """Time a training step."""
        started = time.monotonic()
        yield
        self._steps, self._step_seconds = self._steps + 1, self._step_seconds + time.monotonic() - started

    @contextmanager
    def time_saving(self, what: str) -> Iterator[None]:
        """Time something that is done at the end of a run too.

        Args:
            what: What is saved.
        """
        started = time.monotonic()
        yield
        self._longest[what] = max(self._longest.get(what, 0.0), time.monotonic() - started)

    def add_evaluation(self, split: str, rows: int, seconds: float) -> None:
        """Record how long the evaluation of a split took.

        Args:
            split: The name of the split.
            rows: The number of its rows that were evaluated.
            seconds: How long it took.
        """
        self._evaluations[split] = max(self._evaluations.get(split, (0, 0.0)), (rows, seconds))  # of most rows

    def reserve(self, splits: Iterable[tuple[str, int]]) -> float:
        """Return how many seconds one more step and the end of the run will take.

        Args:
            splits: The name and the number of rows of each split that is evaluated at the end.
        """
        evaluations = 0.0
        for name, rows in splits:
            timed_rows, seconds = self._evaluations.get(name, (0, 0.0))
            evaluations += rows * seconds / max(1, timed_rows)
        return evaluations + sum(self._longest.values()) + self._step_seconds / max(1, self._steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds until now, and how long parts of the run took."""
        return {
            "seconds": self.seconds,
            "before_training": self.before_training,
            "longest": dict(self._longest),
            "evaluations": dict(self._evaluations),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the time of an earlier process.

        Args:
            state: What ``state_dict`` returned in that process.
        """
        self.earlier, self.before_training = state["seconds"], state["before_training"]
        self._longest = dict(state["longest"])
        self._evaluations = {split: (rows, seconds) for split, (rows, seconds) in state["evaluations"].items()}
