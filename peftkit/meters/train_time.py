"""A meter of training time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import PrivateAttr

from peftkit.components import Meter, StepStats
from peftkit.components.lazy_number import LateSum


class TrainTime(Meter):
    """Seconds of training steps, until the device has finished them, without evaluation and saving.

    Time spent waiting for batches is reported separately, because it depends on the disk and ``train.workers`` and not
    on the method.
    """

    name: Literal["clock"] = "clock"

    _seconds: LateSum = PrivateAttr(default_factory=LateSum)
    _wait: LateSum = PrivateAttr(default_factory=LateSum)

    def update(self, record: StepStats) -> None:
        """Add the seconds of the step."""
        self._seconds.add(lambda: record.seconds)
        self._wait.add(lambda: record.wait_seconds)

    def totals(self) -> dict[str, float]:
        """Return ``train_seconds`` and ``data_wait_seconds``."""
        return {"train_seconds": self._seconds.total, "data_wait_seconds": self._wait.total}

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds so far."""
        return {"_seconds": self._seconds.total, "_wait": self._wait.total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the stored seconds.

        Args:
            state: What ``state_dict`` returned; empty if the meter is new.
        """
        self._seconds, self._wait = (LateSum(state.get(key, 0.0)) for key in ("_seconds", "_wait"))
