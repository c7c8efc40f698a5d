"""A stored value beside the recomputed one, and whether they agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from peftkit.errors import PeftkitError, one_line

Status = Literal["agrees", "differs", "not recomputable"]
EXACT = 1e-9
"""How far a value may be off that is computed from the same numbers in the same order."""
DAMAGED = (PeftkitError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError)
"""What checks raise of a file that holds something else than a run writes."""


@dataclass(frozen=True)
class Check:
    """One value of a run directory, recomputed."""

    what: str
    """What the value is part of, such as ``curve``."""
    name: str
    status: Status
    stored: Any = None
    found: Any = None
    """The recomputed value."""
    tolerance: float = 0.0
    """How far numbers may be apart."""
    reason: str = ""
    """Why a value cannot be recomputed, or what a difference means."""


class NotRecomputable(Exception):  # noqa: N818 - no error
    """What is needed to recompute values is not there; the text is the reason."""


def compared(
    what: str, name: str, stored: Any, found: Any, tolerance: float = EXACT, *, least: float = 1.0, reason: str = ""
) -> Check:
    """The check of a value.

    Args:
        what: what it is part of.
        name: its name.
        stored: the value in the run directory; None for a number that JSON cannot hold.
        found: the recomputed value.
        tolerance: the difference that is allowed of numbers, as a share of the stored one; whole ones have none.
        least: the smallest number that this is a share of.
        reason: what a difference means, where its name does not say it.
    """
    numbers = _number(stored) and _number(found)
    whole = isinstance(stored, int) and isinstance(found, int)
    allowed = tolerance * max(least, abs(stored)) if numbers and not whole else 0.0
    agrees = abs(stored - found) <= allowed if numbers else _plain(stored) == _plain(found)
    return Check(what, name, "agrees" if agrees else "differs", stored, found, allowed, "" if agrees else reason)


def compared_all(
    what: str,
    stored: Mapping[str, Any],
    found: Mapping[str, Any],
    tolerance: float = EXACT,
    *,
    prefix: str = "",
    least: float = 1.0,
) -> Iterator[Check]:
    """The checks of all values, inner ones too; one that is there on one side alone differs."""
    left, right = flat(stored), flat(found)
    for key in dict.fromkeys((*left, *right)):
        yield compared(what, f"{prefix}{key}", left.get(key), right.get(key), tolerance, least=least)


def unable(what: str, name: str, reason: str, stored: Any = None) -> Check:
    """The check of what cannot be recomputed."""
    return Check(what, name, "not recomputable", stored, reason=reason)


def guarded(what: str, make: Callable[[], Iterable[Check]]) -> list[Check]:
    """The checks, up to where something is missing, or a file holds what no run writes, which is a difference."""
    found: list[Check] = []
    try:
        for check in make():  # those before an exception are kept
            found.append(check)  # noqa: PERF402
    except NotRecomputable as reason:
        found.append(unable(what, "all", str(reason)))
    except DAMAGED as error:
        found.append(damaged(what, error))
    return found


def damaged(what: str, error: Exception) -> Check:
    """The check of files from which nothing can be computed as a run has computed it, which is a difference."""
    text = str(error) if isinstance(error, PeftkitError) else f"nothing can be recomputed from them: {one_line(error)}"
    return Check(what, "files", "differs", reason=text)


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """A table with the keys of inner tables joined by blanks."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{key} {inner}": each for inner, each in flat(value).items()}
        else:
            found[key] = value
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    """As a JSON file gives it back."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value
