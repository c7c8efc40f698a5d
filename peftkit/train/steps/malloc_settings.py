"""Keeps the memory that a training step frees on a CPU for the next one.

glibc gives large blocks back to the system as soon as they are freed. The next step would get each of them again as
pages that the system has to clear first, which takes about as long as computing with them once.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Settings of ``mallopt``, by their numbers in ``malloc.h``."""
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}
"""No blocks that are mapped each on its own, and nothing given back."""
RETURN = {M_MMAP_MAX: 65_536, M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20}
"""What glibc sets itself to once a process has freed large blocks."""
VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
"""Environment variables with which a user has set this."""
_LOCK = threading.Lock()
_KEEPING: set[int] = set()
"""The objects that keep memory now; the settings are those of the process."""


class KeptMemory:
    """Keeps or returns freed memory.

    Args:
        device: The device of the run; memory of GPUs is kept by torch.
        wanted: Whether the recipe asks for it.
    """

    def __init__(self, device: torch.device, *, wanted: bool) -> None:
        self._libc = _glibc() if wanted and device.type == "cpu" else None

    @property
    def available(self) -> bool:
        """Whether memory can be kept."""
        return self._libc is not None

    def keep(self) -> None:
        """Keep what is freed from now on."""
        if self._libc is None or id(self) in _KEEPING:
            return
        with _LOCK:
            if not _KEEPING:
                _set(self._libc, KEEP)
            _KEEPING.add(id(self))

    def give_back(self) -> None:
        """Give back what has been freed."""
        if self._libc is None or id(self) not in _KEEPING:
            return
        with _LOCK:
            _KEEPING.remove(id(self))
            if not _KEEPING:
                _set(self._libc, RETURN)
                self._libc.malloc_trim(0)


def _glibc() -> Any:
    """Return the C library if it is glibc and the user has not set how it returns memory; otherwise None."""
    if any(name in os.environ for name in VARIABLES) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return None
    try:
        libc = ctypes.CDLL(None)
        _ = libc.gnu_get_libc_version, libc.mallopt, libc.malloc_trim
    except (OSError, TypeError, AttributeError):  # macOS, Windows, musl
        return None
    return libc


def _set(libc: Any, settings: dict[int, int]) -> None:
    for number, value in settings.items():
        libc.mallopt(number, value)
