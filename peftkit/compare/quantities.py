"""Numbers with units, as the command line takes them: budgets, memory, numbers of parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from peftkit.errors import InputError, did_you_mean, listed

Units = Mapping[str, tuple[str, float]]
"""By its lower-case name what a unit is of, and how much of it."""

BUDGETS: Units = {
    "gmacs": ("gmacs", 1.0),
    "tmacs": ("gmacs", 1e3),
    "pmacs": ("gmacs", 1e6),
    "s": ("seconds", 1.0),
    "seconds": ("seconds", 1.0),
    "min": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
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
    """``5e5gmacs`` → (``gmacs``, 500000.0).

    Raises:
        InputError: it is no number with a known unit.
    """
    return quantity(text, BUDGETS, "5e5gmacs, 2h, 1e6tokens")


def parse_bytes(text: str) -> float:
    """``8GiB`` → bytes.

    Raises:
        InputError: it is no number with a known unit.
    """
    return quantity(text, BYTES, "8GiB, 500MB")[1]


def parse_parameters(text: str) -> float:
    """``1e5``, ``100k`` → a number of parameters.

    Raises:
        InputError: it is no number, or has an unknown unit.
    """
    return quantity(text, PARAMETERS, "1e5, 300k, 1.2M")[1]


def quantity(text: str, units: Units, example: str) -> tuple[str, float]:
    """What a number with a unit is of, and how much.

    Args:
        text: the number and its unit; spaces around either do not matter.
        units: the units that it may have; ``""`` for none.
        example: what an error shows.

    Raises:
        InputError: it is no number above zero, or has another unit.
    """
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    unit = found[2].lower() if found else ""
    if not 0 < number < math.inf or unit not in units:
        near = did_you_mean(unit, units) if unit and unit not in units else ""
        known = listed([each for each in units if each])
        unit_or_none = "and, if any, a unit" if "" in units else "with a unit"
        raise InputError(f"{text!r} must be a number above zero {unit_or_none}{near}: {known}; such as {example}")
    name, factor = units[unit]
    return name, number * factor


def write_cost(amount: float, axis: str) -> str:
    """An amount of an axis for people: ``1,200 GMACs``, ``14 min``, ``1.25 GiB``.

    Args:
        amount: in the axis' own unit, such as seconds or bytes.
        axis: what it is of.
    """
    if axis == "seconds":
        scale, unit = (3600, "h") if amount >= 3600 else (60, "min") if amount >= 60 else (1, "s")
        return f"{amount / scale:,.3g} {unit}"
    if axis == "peak_memory":
        return f"{amount / 2**30:,.3g} GiB"
    names = {"gmacs": "GMACs", "gmacs_with_tuning": "GMACs with tuning", "joules": "J"}
    number = f"{amount:,.0f}" if amount >= 1000 else f"{amount:.4g}"
    return f"{number} {names.get(axis, axis.replace('_', ' '))}"
