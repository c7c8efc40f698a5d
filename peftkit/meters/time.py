"""A meter of training time."""

from __future__ import annotations

from typing import Literal

from peftkit.components import Meter, StepStats


class TrainTime(Meter):
    """Seconds of training steps, until the device has finished them, without evaluation and saving.

    Time spent waiting for batches is reported separately, because it depends on the disk and ``train.workers`` and not
    on the method.
    """

    name: Literal["clock"] = "clock"

    _seconds: float = 0.0
    _wait: float = 0.0

    def update(self, record: StepStats) -> None:
        """Add the seconds of the step."""
        self._seconds += record.seconds
        self._wait += record.wait_seconds

    def totals(self) -> dict[str, float]:
        """Return ``train_seconds`` and ``data_wait_seconds``."""
        return {"train_seconds": self._seconds, "data_wait_seconds": self._wait}
