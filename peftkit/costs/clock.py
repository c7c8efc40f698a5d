"""Seconds of training."""

from __future__ import annotations

from typing import Literal

from peftkit.components import Meter, StepRecord


class Clock(Meter):
    """Seconds spent in training steps, the wait for data included; evaluation and saving are not part of it.

    On an accelerator each stretch between evaluations ends by waiting for the device, so that work still under way
    is counted.
    """

    name: Literal["clock"] = "clock"

    _seconds: float = 0.0

    def step(self, record: StepRecord) -> None:
        """Adds the step's seconds."""
        self._seconds += record.seconds

    def read(self) -> dict[str, float]:
        """``train_seconds``."""
        return {"train_seconds": self._seconds}
