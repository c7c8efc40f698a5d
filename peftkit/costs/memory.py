"""Peak memory of training."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from peftkit.components import Meter, StepRecord

if TYPE_CHECKING:
    from torch import nn


class PeakMemory(Meter):
    """The most memory that was in use at once, in bytes, on this process: of the device and of the host.

    The device's figure is what torch allocated for tensors in training steps, read before evaluation can raise it. The
    host's is the process's resident peak since it started, which loading the model is part of.
    """

    name: Literal["peak_memory"] = "peak_memory"

    _device: int = 0
    _host: int = 0

    def start(self, model: nn.Module) -> None:
        """Forgets the device's peak so far."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def step(self, record: StepRecord) -> None:
        """Reads the peaks."""
        import torch

        self._host = max(self._host, host_peak())
        if torch.cuda.is_available():
            self._device = max(self._device, torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()  # else an evaluation's peak would count at the next step

    def read(self) -> dict[str, float]:
        """``peak_host_bytes``, and ``peak_device_bytes`` where there is a device."""
        found = {"peak_host_bytes": float(self._host or host_peak())}
        return found | ({"peak_device_bytes": float(self._device)} if self._device else {})


def host_peak() -> int:
    """The resident peak of this process in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
