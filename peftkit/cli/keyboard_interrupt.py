"""Ctrl-C: one line on standard error, whatever is being imported or computed."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

EXIT_CODE = 128 + signal.SIGINT


class SigintRecord:
    """Records whether SIGINT arrived while it is entered.

    Libraries may swallow the KeyboardInterrupt and fail with another error, such as numpy when it is imported; the
    record says that such an error was an interruption.
    """

    def __init__(self) -> None:
        self.received = False
        self._previous: Any = None

    def __enter__(self) -> SigintRecord:
        default = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored, or not ours
        if default and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        raise KeyboardInterrupt
