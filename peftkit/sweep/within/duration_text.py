"""Durations as users write them: ``20min``, ``1h30min``."""

from __future__ import annotations

import math
import re

from peftkit.errors import InputError

UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0}
"""Seconds of each unit, from the longest."""
EXAMPLES = "90s, 20min, 2h, 1h30min"
_PART = r"(\d+(?:\.\d+)?)\s*"
_PATTERN = re.compile(rf"\s*(?:{_PART}h)?\s*(?:{_PART}min)?\s*(?:{_PART}s)?\s*", re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Parse a duration to seconds: ``1h30min`` becomes 5400.

    Raises:
        InputError: It is not numbers with the units h, min and s, in this order, or it is zero.
    """
    match = _PATTERN.fullmatch(text)
    seconds = (
        sum(float(number) * unit for number, unit in zip(match.groups(), UNITS.values(), strict=True) if number)
        if match
        else 0.0
    )
    if not 0 < seconds < math.inf:
        raise InputError(
            f"{text!r} must be a duration above zero in h, min and s, in this order; for example {EXAMPLES}"
        )
    return seconds


def write_duration(seconds: float) -> str:
    """Write a duration in the form that ``parse_duration`` reads, rounded up to minutes from two minutes on.

    Args:
        seconds: The duration.
    """
    if seconds <= 120:
        return f"{max(1, math.ceil(seconds))}s"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}min" if minutes else "")
