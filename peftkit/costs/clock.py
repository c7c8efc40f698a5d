"""Seconds of training."""

from __future__ import annotations

from typing import Literal

from peftkit.components import Meter, StepRecord


class Clock(Meter):
    """Seconds of training steps, each until the device has done it; evaluation and saving are not part of them.

    What steps wait for their batches is apart: it tells of the disk and of ``train.workers`` rather than the method.
    """

    name: Literal["clock"] = "clock"

    _seconds: float = 0.0
    _wait: float = 0.0

    def step(self, record: StepRecord) -> None:
        """Adds the step's seconds."""
        self._seconds += record.seconds
        self._wait += record.wait_seconds

    def read(self) -> dict[str, float]:
        """``train_seconds``, and beside them ``data_wait_seconds``."""
        return {"train_seconds": self._seconds, "data_wait_seconds": self._wait}
