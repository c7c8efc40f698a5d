"""Handles signals that stop a run: the current step is finished and saved before the run exits."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

HANDLED = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Signals that stop a run; SLURM jobs commonly request SIGUSR1 before their time limit."""


class InterruptHandler:
    """Context manager that records the first signal; a second one raises ``KeyboardInterrupt`` at once."""

    def __init__(self) -> None:
        self.received = 0
        """Number of the signal; 0 if there was none."""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptHandler:
        if threading.current_thread() is threading.main_thread():  # other threads cannot set handlers
            for name in HANDLED:
                number = getattr(signal, name, None)
                if number is not None:
                    self._previous[number] = signal.signal(number, self._record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
