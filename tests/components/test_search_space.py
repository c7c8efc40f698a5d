from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftkit import PublishedRate, Range
from peftkit.components import Method
from peftkit.components.search_space import FAMILIES, MATRICES, SearchSpace, find_family
from peftkit.plugins import load_registry


@pytest.mark.parametrize(
    ("rates", "source", "words"),
    [
        ((), "Somebody (2020)", "one or more numbers above zero"),
        ((0.0, 0.1), "Somebody (2020)", "above zero"),
        ((-0.1,), "Somebody (2020)", "above zero"),
        ((0.2, 0.1), "Somebody (2020)", "in ascending order"),
        ((0.1, 0.1), "Somebody (2020)", "in ascending order"),
        ((0.1,), " ", "needs its source"),
    ],
)
def test_invalid_published_rates_are_rejected(rates: tuple[float, ...], source: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PublishedRate(rates, source)


@pytest.mark.parametrize(("low", "high", "log"), [(1.0, 1.0, False), (2.0, 1.0, True), (0.0, 1.0, True)])
def test_invalid_ranges_are_rejected(low: float, high: float, log: bool) -> None:
    with pytest.raises(ValueError, match="a range needs low < high"):
        Range(low, high, log)


def test_the_default_search_space_is_that_of_new_matrices() -> None:
    assert Method.search_space == MATRICES
    assert Method.published_rates == ()


@pytest.mark.parametrize(("name", "space"), FAMILIES.items())
def test_a_family_is_found_by_its_range(name: str, space: SearchSpace) -> None:
    assert find_family(space) == name
    assert find_family({**space, "method.r": Range(1, 8)}) == name
    assert find_family({"train.learning_rate": Range(1e-3, 2e-3)}) == ""
    assert find_family({}) == ""


def test_registered_methods_have_a_family_and_are_mergeable_where_a_measurement_merged_them() -> None:
    """``docs/support.json`` has what merging did on each architecture."""
    support = json.loads((Path(__file__).parents[2] / "docs" / "support.json").read_text(encoding="utf-8"))
    outcomes: dict[str, set[str]] = {}
    for methods in support.values():
        for name, architectures in methods.items():
            cells = [each.get("merges", {}).get("outcome") for each in architectures.values()]
            outcomes.setdefault(name, set()).update(cells)
    registered = {name: entry.component for name, entry in load_registry().all("method", presets=False).items()}
    compared = [name for name in registered if name in outcomes]
    assert len(compared) > 40
    wrong = [name for name in compared if registered[name].mergeable != ("works" in outcomes[name])]
    assert wrong == []
    assert [name for name in compared if not find_family(registered[name].search_space)] == []
