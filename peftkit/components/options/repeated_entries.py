"""Find entries that occur more than once in the lists of a component's options."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, get_args, get_origin

MISSING = object()
NAMES = (bool, int, str)
"""The types of entries that name or number things; floats may be equal."""


def repeated_entry(value: Any, annotation: Any) -> Any:
    """Return the first entry that occurs again in a list, or in a list of a table; ``MISSING`` if none does.

    Args:
        value: The value of an option.
        annotation: Its type. Fixed numbers of entries, such as ``tuple[int, int]``, may be equal.
    """
    if not isinstance(value, tuple | list | Mapping) or not has_lists(annotation):
        return MISSING
    if isinstance(value, Mapping):
        repeated = (repeated_entry(each, annotation) for each in value.values())
        return next((entry for entry in repeated if entry is not MISSING), MISSING)
    seen: set[tuple[type, Any]] = set()
    for entry in value:
        key = (type(entry), entry)  # True is not 1
        if isinstance(entry, NAMES) and key in seen:
            return entry
        if isinstance(entry, NAMES):
            seen.add(key)
    return MISSING


@cache
def has_lists(annotation: Hashable) -> bool:
    """Return whether a type has lists of any length."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is list or (origin is tuple and arguments[-1:] == (...,)):
        return True
    return any(has_lists(each) for each in arguments if get_origin(each) is not None or isinstance(each, type))
