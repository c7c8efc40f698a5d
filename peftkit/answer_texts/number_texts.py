"""Numbers as texts: how targets and predictions of regression are written and read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

SEPARATOR = ", "
"""What is between the numbers of several targets."""
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|-?inf")
DIGITS = 6
"""Significant digits of predicted numbers, relative to themselves and to the targets' deviation."""


def join_numbers(texts: Sequence[str]) -> str:
    """Return one text for the numbers of an example.

    Args:
        texts: A number for each target, as text.
    """
    return SEPARATOR.join(texts)


@lru_cache(maxsize=65_536)
def parse_numbers(text: str) -> tuple[float, ...] | None:
    """Return the numbers of a text.

    Args:
        text: One number, or several with commas between them; space around them is ignored.

    Returns:
        The numbers; None if a part of the text is no number.
    """
    parts = [part.strip() for part in text.split(SEPARATOR.strip())]
    return tuple(map(float, parts)) if all(map(NUMBER.fullmatch, parts)) else None


def format_number(value: float, scale: float = 1.0) -> str:
    """Write a predicted number, without exponent.

    Args:
        value: The number.
        scale: The standard deviation of such numbers: six digits of it are kept, however large the number is.

    Returns:
        The text, as ``3.28412``; ``nan``, ``inf`` or ``-inf`` if the number is not finite.
    """
    if not math.isfinite(value):
        return str(value)
    smallest = min(abs(scale), abs(value)) or abs(scale)
    decimals = DIGITS - 1 - math.floor(math.log10(smallest))
    return f"{round(value, decimals):.{max(0, decimals)}f}"
