from __future__ import annotations

import pytest

from peftkit import PublishedRate, Range
from peftkit.components import Method
from peftkit.components.search_space import MATRICES


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
