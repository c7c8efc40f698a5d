"""Lists of names and numbers with an entry that occurs twice are rejected, for every option of every component."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar, Literal, cast

import pytest
from pydantic import ValidationError

from peftkit import Method
from peftkit.components.options.repeated_entries import MISSING, has_lists, repeated_entry
from peftkit.plugins import load_registry
from peftkit.plugins.registry import BASE_CLASSES

LISTS: list[tuple[Any, str]] = [
    (entry.component, option)
    for kind in BASE_CLASSES
    for entry in load_registry().all(kind, presets=False).values()
    for option, field in entry.component.model_fields.items()
    if has_lists(cast("Hashable", field.annotation))
]
ENTRIES = ("q", "b", 3, 3.5, True, "last_number", [0, 1], {"name": "bottleneck", "reduction_factor": 2.0})
"""Of these, each list takes some."""


def errors_of(component: Any, option: str, value: Any) -> list[Any]:
    """The errors about one option of a component."""
    try:
        component.model_validate({**getattr(component, "tiny_options", {}), option: value})
    except ValidationError as error:
        return [each for each in error.errors() if each["loc"][:1] == (option,)]
    return []


@pytest.mark.parametrize(("component", "option"), LISTS, ids=[f"{c.__name__}-{option}" for c, option in LISTS])
def test_an_entry_that_occurs_twice_is_rejected(component: Any, option: str) -> None:
    results = [errors_of(component, option, (entry, entry)) for entry in ENTRIES if isinstance(entry, str | int)]
    rejected = [each for each in results if any("occurs twice; keep one" in error["msg"] for error in each)]
    sequence = option in component.repeatable_options or option in ("layer_replication", "methods", "mean", "std")
    if option == "path":  # a table of lists
        results = [errors_of(component, option, {"train": ["a.csv", "a.csv"]})]
        rejected = [each for each in results if any("occurs twice" in error["msg"] for error in each)]
    assert bool(rejected) != sequence, results


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (("a", "b"), tuple[str, ...], MISSING),
        (("a", "a"), tuple[str, ...], "a"),
        ((3, 3), tuple[int, int], MISSING),
        ((3, 3), tuple[int, ...] | Literal["all"], 3),
        ((0.5, 0.5), tuple[float, ...], MISSING),
        ((1, True), tuple[bool | int, ...], MISSING),
        (((0, 2), (0, 2)), tuple[tuple[int, int], ...], MISSING),
        ({"a": (1, 2), "b": (2, 2)}, dict[str, tuple[int, ...]], 2),
        ({"train": ["x", "x"]}, str | dict[str, str | list[str]], "x"),
        ("aa", str, MISSING),
        (None, tuple[str, ...] | None, MISSING),
    ],
)
def test_entries_are_compared_by_type_and_value(value: Any, annotation: Any, expected: Any) -> None:
    assert repeated_entry(value, annotation) is expected or repeated_entry(value, annotation) == expected


def test_a_component_declares_which_lists_are_sequences() -> None:
    class Mine(Method):
        name: Literal["mine"] = "mine"
        layers: tuple[int, ...] = ()
        tokens: tuple[int, ...] = ()
        repeatable_options: ClassVar[frozenset[str]] = frozenset({"tokens"})

    assert Mine(layers=(0, 1), tokens=(5, 5)).tokens == (5, 5)
    with pytest.raises(ValidationError, match=r"layers\n.*0 occurs twice; keep one"):
        Mine(layers=(0, 0))
