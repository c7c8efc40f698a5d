"""Signals that end a run in order: the step under way is finished and saved, and then the run leaves."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

HANDLED = ("SIGINT", "SIGTERM", "SIGUSR1")  # the last is what SLURM is usually told to send before the time is up


class Stop(Exception):  # noqa: N818 - no error
    """Ends the training loop; ``evaluated`` is whether the evaluation that was due has been made."""

    def __init__(self, number: int, *, evaluated: bool) -> None:
        self.number, self.evaluated = number, evaluated
        super().__init__(signal.Signals(number).name)


class Signals:
    """Notes the first signal while it is entered; a second one interrupts at once."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for name in HANDLED:
                number = getattr(signal, name, None)
                if number is not None:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
