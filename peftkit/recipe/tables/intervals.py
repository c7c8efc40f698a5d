"""Parses intervals and sizes in recipes, such as ``"100 steps"`` and ``"2GiB"``."""

from __future__ import annotations

import re

from pydantic_core import PydanticCustomError

MIN_AMOUNT = 1e-6
"""The smallest budget and interval."""


def parse_interval(text: str) -> tuple[float, str]:
    """Parse an interval: ``"100 steps"`` → ``(100, "steps")``; also ``"0.5 epochs"``, ``"10%"`` and ``"20 log"``."""
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]+)?)\s*(steps?|epochs?|%|log)\s*", text)
    number, unit = (float(match[1]), match[2]) if match else (0.0, "")
    unit = unit if unit in ("%", "log") else unit.rstrip("s") + "s"
    fractional = unit in ("steps", "log") and number != int(number)
    if number < MIN_AMOUNT or fractional or (unit == "%" and number > 100) or (unit == "log" and number < 2):
        template = (
            "must be written as '100 steps', '0.5 epochs', '10%' (of the budget) or '20 log', above zero, not {text}"
        )
        raise PydanticCustomError("interval", template, {"text": repr(text)})
    return number, unit


def parse_bytes(text: str) -> int:
    """Parse a size: ``"2GiB"`` → ``2147483648``; also MiB, KiB, and the decimal GB, MB and KB."""
    match = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]+)?)\s*([KMGT])(i?)B\s*", text)
    size = 0 if match is None else int(float(match[1]) * (1024 if match[3] else 1000) ** ("KMGT".index(match[2]) + 1))
    if not size:
        template = "must be written as '2GiB' or '500MB', above zero, not {text}"
        raise PydanticCustomError("size", template, {"text": repr(text)})
    return size


def raise_problem(problem: str, value: str) -> str:
    """Return a value if nothing is wrong with it.

    Args:
        problem: What is wrong with the value; empty if nothing is.
        value: The value.

    Returns:
        The value.

    Raises:
        PydanticCustomError: If there is a problem.
    """
    if problem:
        raise PydanticCustomError("unknown_name", "{problem}", {"problem": problem})
    return value
