"""Numbers as texts: how targets and predictions of regression are written and read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache

SEPARATOR = ", "
"""What is between the numbers of several targets."""
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|nan|-?inf")


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


def format_number(value: float) -> str:
    """Write a predicted number, without exponent.

    Args:
        value: The number.

    Returns:
        The shortest text whose number is the same, as ``3.2841243743896484``, so that scores are those of the number;
        ``nan``, ``inf`` or ``-inf`` if it is not finite.
    """
    return format(Decimal(repr(float(value))), "f") if math.isfinite(value) else str(float(value))
