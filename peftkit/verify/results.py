"""Results of checks: a stored value, the recomputed one, and whether they agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from peftkit.errors import PeftkitError, summarize_error

Status = Literal["agrees", "differs", "not recomputable"]
EXACT = 1e-9
"""Relative tolerance for values computed from the same numbers in the same order."""
DAMAGED = (PeftkitError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError)
"""Exceptions that checks raise if a file does not contain what a run writes."""


@dataclass(frozen=True)
class Check:
    """One value of a run directory, recomputed."""

    group: str
    """The group of the value, such as ``curve``."""
    name: str
    status: Status
    stored: Any = None
    recomputed: Any = None
    """The recomputed value."""
    tolerance: float = 0.0
    """The allowed absolute difference of numbers."""
    reason: str = ""
    """Why the value cannot be recomputed, or what a difference means."""


class NotRecomputable(Exception):  # noqa: N818 - not an error
    """Something that a check needs is missing; the message is the reason."""


def check_value(
    what: str,
    name: str,
    stored: Any,
    recomputed: Any,
    tolerance: float = EXACT,
    *,
    least: float = 1.0,
    reason: str = "",
) -> Check:
    """Check one value.

    Args:
        what: The group of the value.
        name: The name of the value.
        stored: The value in the run directory; None for a number that JSON cannot represent.
        recomputed: The recomputed value.
        tolerance: The allowed difference of floats, relative to the stored value; integers must be equal.
        least: The smallest magnitude that the tolerance is relative to.
        reason: What a difference means, if the name does not say it.

    Returns:
        The check, which agrees or differs.
    """
    numbers = _is_finite_number(stored) and _is_finite_number(recomputed)
    whole = isinstance(stored, int) and isinstance(recomputed, int)
    allowed = tolerance * max(least, abs(stored)) if numbers and not whole else 0.0
    agrees = abs(stored - recomputed) <= allowed if numbers else _as_json(stored) == _as_json(recomputed)
    return Check(what, name, "agrees" if agrees else "differs", stored, recomputed, allowed, "" if agrees else reason)


def check_values(
    what: str,
    stored: Mapping[str, Any],
    recomputed: Mapping[str, Any],
    tolerance: float = EXACT,
    *,
    prefix: str = "",
    least: float = 1.0,
) -> Iterator[Check]:
    """Check all values of a nested mapping; keys on one side only differ.

    Args:
        what: The group of the values.
        stored: The values in the run directory.
        recomputed: The recomputed values.
        tolerance: The allowed relative difference of floats.
        prefix: Text in front of each name.
        least: The smallest magnitude that the tolerance is relative to.

    Yields:
        One check per value.
    """
    left, right = flatten(stored), flatten(recomputed)
    for key in dict.fromkeys((*left, *right)):
        yield check_value(what, f"{prefix}{key}", left.get(key), right.get(key), tolerance, least=least)


def cannot_check(what: str, name: str, reason: str, stored: Any = None) -> Check:
    """Build the check of a value that cannot be recomputed.

    Args:
        what: The group of the value.
        name: The name of the value.
        reason: Why it cannot be recomputed.
        stored: The value in the run directory.

    Returns:
        The check.
    """
    return Check(what, name, "not recomputable", stored, reason=reason)


def run_checks(what: str, checks_of_group: Callable[[], Iterable[Check]]) -> list[Check]:
    """Run checks up to the first missing input or damaged file; a damaged file counts as a difference.

    Args:
        what: The group of the checks.
        checks_of_group: Yields the checks.

    Returns:
        The checks that ran, and one for what stopped them.
    """
    checks: list[Check] = []
    try:
        for check in checks_of_group():  # those before an exception are kept
            checks.append(check)  # noqa: PERF402
    except NotRecomputable as reason:
        checks.append(cannot_check(what, "all", str(reason)))
    except DAMAGED as error:
        checks.append(damaged_files(what, error))
    return checks


def damaged_files(what: str, error: Exception) -> Check:
    """Build the check of files that cannot be used, which counts as a difference.

    Args:
        what: The group of the check.
        error: The exception that was raised.

    Returns:
        The check.
    """
    text = str(error) if isinstance(error, PeftkitError) else f"they cannot be used: {summarize_error(error)}"
    return Check(what, "files", "differs", reason=text)


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a nested mapping, joining keys with spaces."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= {f"{key} {inner}": each for inner, each in flatten(value).items()}
        else:
            result[key] = value
    return result


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_json(value: Any) -> Any:
    """The value as JSON would give it back."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value
