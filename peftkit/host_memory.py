"""The peak memory of this process on the host."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

CLEAR_REFS = Path("/proc/self/clear_refs")


def host_peak() -> int:
    """Return the peak resident set size of this process in bytes since the last reset; 0 if it is not available."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_host_peak() -> None:
    """Reset the peak resident set size of this process to its current size, if the system supports it."""
    with suppress(OSError):  # not Linux, or not allowed
        CLEAR_REFS.write_text("5\n", encoding="ascii")  # proc(5): resets only the peak resident set size
