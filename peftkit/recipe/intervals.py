"""Parses intervals, such as ``"100 steps"`` and ``"10%"``."""

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
