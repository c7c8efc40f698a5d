"""Peak memory of training."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

from peftkit.components import Meter

FORGET = Path("/proc/self/clear_refs")


class PeakMemory(Meter):
    """The most memory that was in use at once in training steps, in bytes, on this process: of the device and the host.

    The device's figure is what torch allocated for tensors, the host's the process's resident memory. What is between
    steps, such as evaluation, is no part of either; where the system cannot forget the host's peak (Linux can), that is
    the one since the process started, which loading the model is part of.
    """

    name: Literal["peak_memory"] = "peak_memory"

    _device: int = 0
    _host: int = 0

    def begin(self) -> None:
        """Forgets the peaks of what was before."""
        import torch

        forget_host_peak()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def end(self) -> None:
        """Reads those of the step."""
        import torch

        self._host = max(self._host, host_peak())
        if torch.cuda.is_available():
            self._device = max(self._device, torch.cuda.max_memory_allocated())

    def read(self) -> dict[str, float]:
        """``peak_host_bytes``, and ``peak_device_bytes`` where there is a device."""
        found = {"peak_host_bytes": float(self._host or host_peak())}
        return found | ({"peak_device_bytes": float(self._device)} if self._device else {})


def host_peak() -> int:
    """The resident peak of this process in bytes, since it was last forgotten; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_host_peak() -> None:
    """Has the system begin the peak anew at what is resident now, where it can."""
    with suppress(OSError):  # not Linux, or not allowed
        FORGET.write_text("5\n", encoding="ascii")  # proc(5): resets the peak resident set size, and nothing else
