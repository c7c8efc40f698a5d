"""A meter of peak memory."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

from peftkit.components import Meter

CLEAR_REFS = Path("/proc/self/clear_refs")


class PeakMemory(Meter):
    """Peak memory of training steps in bytes, on the device and on the host, of the main process.

    Device memory is what torch allocated for tensors; host memory is the resident set size of the process. Evaluation
    between steps is not included. The host's peak can be reset on Linux only; elsewhere it is the peak since the
    process started, including loading the model. Where it can be reset, what the process held before its first step is
    recorded too: libraries and the model.
    """

    name: Literal["peak_memory"] = "peak_memory"

    waits_for_device = False  # torch counts the memory on the host

    _device: int = 0
    _host: int = 0
    _before: int = 0

    def on_step_start(self) -> None:
        """Reset the peaks."""
        import torch

        if reset_host_peak() and not self._before:
            self._before = host_peak()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_step_end(self) -> None:
        """Record the peaks of the step."""
        import torch

        self._host = max(self._host, host_peak())
        if torch.cuda.is_available():
            self._device = max(self._device, torch.cuda.max_memory_allocated())

    def totals(self) -> dict[str, float]:
        """Return ``peak_host_bytes``, ``host_bytes_before_training``, and ``peak_device_bytes`` if there is a GPU."""
        peaks = {"peak_host_bytes": float(self._host or host_peak())}
        if self._before:
            peaks["host_bytes_before_training"] = float(self._before)
        return peaks | ({"peak_device_bytes": float(self._device)} if self._device else {})


def host_peak() -> int:
    """Return the peak resident set size of this process in bytes since the last reset; 0 if it is not available."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_host_peak() -> bool:
    """Reset the peak resident set size of this process to its current size; return whether the system can do so."""
    with suppress(OSError):  # not Linux, or not allowed
        CLEAR_REFS.write_text("5\n", encoding="ascii")  # proc(5): resets only the peak resident set size
        return True
    return False
