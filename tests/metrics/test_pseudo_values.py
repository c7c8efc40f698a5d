"""Tests of peftkit.metrics.pseudo_values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.metrics.pseudo_values import Array, pseudo_values


def f1(sums: Array) -> Array:
    return 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=2, max_size=30))
def test_their_mean_is_the_score_and_each_comes_from_leaving_its_example_out(rows: list[tuple[int, ...]]) -> None:
    statistics = np.array(rows, dtype=float)
    values = pseudo_values(statistics, f1)
    whole = float(f1(statistics.sum(0)))
    assert np.mean(values) == pytest.approx(whole, abs=1e-9)
    left_out = [float(f1(np.delete(statistics, i, 0).sum(0))) for i in range(len(rows))]
    for i, j in ((0, 1), (0, len(rows) - 1)):
        assert values[i] - values[j] == pytest.approx((len(rows) - 1) * (left_out[j] - left_out[i]), abs=1e-9)


def test_a_mean_has_its_terms_as_values() -> None:
    statistics = np.array([[1.0, 1], [0, 1], [1, 1], [1, 1]])
    assert pseudo_values(statistics, lambda sums: sums[..., 0] / sums[..., 1]) == pytest.approx([1, 0, 1, 1])


def test_a_single_example_has_the_score() -> None:
    assert pseudo_values(np.array([[3.0, 4, 2]]), f1) == [1.0]
