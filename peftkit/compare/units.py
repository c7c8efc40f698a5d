"""Parses and formats numbers with units: budgets, memory, numbers of parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from peftkit.errors import InputError, comma_separated, did_you_mean

Units = Mapping[str, tuple[str, float]]
"""The quantity and the factor of each unit, by the unit's lower-case name."""

BUDGETS: Units = {
    "gmacs": ("gmacs", 1.0),
    "tmacs": ("gmacs", 1e3),
    "pmacs": ("gmacs", 1e6),
    "s": ("seconds", 1.0),
    "seconds": ("seconds", 1.0),
    "min": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
    "wall_seconds": ("wall_seconds", 1.0),
    "samples": ("samples", 1.0),
    "tokens": ("tokens", 1.0),
    "joules": ("joules", 1.0),
    "kwh": ("joules", 3.6e6),
}
BYTES: Units = {
    unit: ("bytes", factor)
    for unit, factor in {
        "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    }.items()
}  # fmt: skip
PARAMETERS: Units = {unit: ("parameters", factor) for unit, factor in {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}.items()}


def parse_budget(text: str) -> tuple[str, float]:
    """Parse a budget: ``5e5gmacs`` becomes ``("gmacs", 500000.0)``.

    Raises:
        InputError: It is not a number above zero with a known unit.
    """
    return parse_quantity(text, BUDGETS, "5e5gmacs, 2h, 1e6tokens")


def parse_bytes(text: str) -> float:
    """Parse an amount of memory, such as ``8GiB``, to bytes.

    Raises:
        InputError: It is not a number above zero with a known unit.
    """
    return parse_quantity(text, BYTES, "8GiB, 500MB")[1]


def parse_parameters(text: str) -> float:
    """Parse a number of parameters, such as ``1e5`` or ``100k``.

    Raises:
        InputError: It is not a number above zero, or has an unknown unit.
    """
    return parse_quantity(text, PARAMETERS, "1e5, 300k, 1.2M")[1]


def parse_quantity(text: str, units: Units, example: str) -> tuple[str, float]:
    """Parse a number with a unit.

    Args:
        text: The number and its unit; spaces around either are ignored.
        units: The allowed units; ``""`` allows a number without one.
        example: Valid values to show in errors.

    Returns:
        The quantity that the unit belongs to, and the amount in that quantity's base unit.

    Raises:
        InputError: It is not a number above zero, or has another unit.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    unit = match[2].lower() if match else ""
    if not 0 < number < math.inf or unit not in units:
        near = did_you_mean(unit, units) if unit and unit not in units else ""
        known = comma_separated([each for each in units if each])
        unit_or_none = "and, if any, a unit" if "" in units else "with a unit"
        raise InputError(f"{text!r} must be a number above zero {unit_or_none}{near}: {known}; for example {example}")
    name, factor = units[unit]
    return name, number * factor


def format_cost(amount: float, axis: str) -> str:
    """Format a cost for people: ``1,200 GMACs``, ``14 min``, ``1.25 GiB``.

    Args:
        amount: The cost, in the axis' base unit, such as seconds or bytes.
        axis: The cost axis.
    """
    if axis in ("seconds", "wall_seconds"):
        scale, unit = (3600, "h") if amount >= 3600 else (60, "min") if amount >= 60 else (1, "s")
        return f"{amount / scale:,.3g} {unit}"
    if axis == "peak_memory":
        return f"{amount / 2**30:,.3g} GiB"
    names = {"gmacs": "GMACs", "gmacs_with_tuning": "GMACs with tuning", "joules": "J"}
    number = f"{amount:,.0f}" if amount >= 1000 else f"{amount:.4g}"
    return f"{number} {names.get(axis, axis.replace('_', ' '))}"
