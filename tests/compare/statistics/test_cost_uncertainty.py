"""Intervals of the cost to reach a score."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from peftkit.compare.learning_curves import reached_at
from peftkit.compare.statistics.cost_uncertainty import cost_interval, reach_probability

SCENARIOS = 100


def test_cost_intervals_need_several_seeds_that_reached_the_level() -> None:
    assert cost_interval([(1.0, 2.0)], 0.1) is None
    assert cost_interval([(1.0, 2.0), None], 0.1) is None
    assert cost_interval([(0.0, 0.0), (1.0, 2.0)], 0.1) is None, "reached before the first step"
    assert reach_probability([(1.0, 2.0)]) is None
    assert reach_probability([(1.0, 2.0), None, None]) == 1.5 / 4
    assert reach_probability([(1.0, 2.0)] * 3) == 3.5 / 4


def test_the_cost_interval_spans_the_evaluations_around_the_level() -> None:
    assert cost_interval([(2.0, 4.0)] * 3, 0.1) == (pytest.approx(2.0), pytest.approx(4.0))
    assert cost_interval([(0.0, 4.0)] * 3, 0.1) == (pytest.approx(0.1), pytest.approx(4.0))
    low, high = cost_interval([(2.0, 4.0), (4.0, 8.0)], 1.9) or (0, 0)
    assert (low, high > 8) == (1.9, True), "never below the first step"


def test_the_cost_interval_is_that_of_students_t_for_logarithms() -> None:
    before, after = np.log([2.0, 4.0, 5.0]), np.log([4.0, 8.0, 6.0])
    quantile = stats.t.ppf(0.975, 2) / math.sqrt(3)
    low, high = cost_interval([(2.0, 4.0), (4.0, 8.0), (5.0, 6.0)], 0.1) or (math.nan, math.nan)
    assert math.log(low) == pytest.approx(before.mean() - quantile * before.std(ddof=1))
    assert math.log(high) == pytest.approx(after.mean() + quantile * after.std(ddof=1))


def test_the_cost_interval_is_bounded_by_the_first_step() -> None:
    # Reached with the first step, which costs more than the evaluation: both ends are that of the evaluation.
    assert cost_interval([(0.0, 2.0)] * 2, 3.0) == (pytest.approx(2.0), pytest.approx(2.0))
    assert cost_interval([(1.0, 2.0)] * 2, 0.0) is None
    assert cost_interval([(0.0, 1.0), (0.0, 1.0)], 1.0) == (1.0, 1.0)
    assert cost_interval([], 1.0) is None


@pytest.mark.parametrize(("evaluations", "most"), [(20_000, 0.95), (12, 1.0)])
def test_cost_intervals_cover_the_typical_cost(evaluations: int, most: float) -> None:
    """Coverage is nominal with fine evaluations and no lower with coarse ones."""
    rng = np.random.default_rng(0)
    grid = np.geomspace(1.0, 1e6, evaluations)
    hits = []
    for _ in range(6 * SCENARIOS):
        typical, spread = rng.uniform(6, 8), rng.choice([0.1, 0.3, 0.6])
        reached = []
        for cost in np.exp(rng.normal(typical, spread, rng.choice([2, 3, 5, 10]))):
            scores = (grid >= cost).astype(float)
            reached.append(reached_at(grid, scores, 1.0))
        low, high = cost_interval(reached, 0.5) or (math.inf, -math.inf)
        hits.append(low <= math.exp(typical) <= high)
    error = 3 * math.sqrt(0.95 * 0.05 / len(hits))
    assert 0.95 - error <= np.mean(hits) <= most + error
