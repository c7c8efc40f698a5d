"""The Pareto front, and how likely a method is on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.compare.comparison import Comparison, compare
from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.learning_curves import area_under_curve
from peftkit.compare.statistics import Posterior, fit
from peftkit.compare.statistics.pareto_front import front_probabilities, on_pareto_front, pareto_front
from tests.compare.conftest import HALF_EFFORT, Plant

SCENARIOS = 100


def posterior_of(draws: list[list[float]]) -> Posterior:
    names = tuple("abcdef"[: len(draws[0])])
    return Posterior({}, names, np.array(draws), {})


def test_the_front_has_the_methods_that_none_dominates() -> None:
    points = np.array([(1, 0.5), (2, 0.7), (3, 0.6), (2, 0.7), (0.5, 0.5)])
    [front] = on_pareto_front(points[:, 1][None], points[:, 0], np.zeros(5))
    assert front.tolist() == [False, True, False, True, True]


def test_costs_within_one_step_are_equal() -> None:
    scores, costs = np.array([[0.5, 0.7, 0.6]]), np.array([100.0, 100.9, 103.0])
    assert on_pareto_front(scores, costs, np.array([1.0, 0.5, 0.5])).tolist() == [[False, True, False]]
    assert on_pareto_front(scores, costs, np.array([0.5, 0.5, 0.5])).tolist() == [[True, True, False]]
    assert on_pareto_front(scores, costs, np.array([0.5, 0.5, 3.1])).tolist() == [[False, True, False]]
    assert on_pareto_front(scores[:, [0, 2, 1]], costs, np.array([0.9, 0.9, 2.2])).tolist() == [[True, False, True]]


cells = st.tuples(st.integers(0, 6), st.integers(0, 6), st.floats(0, 2))


@settings(deadline=None)
@given(points=st.lists(cells, min_size=1, max_size=7), order=st.randoms(use_true_random=False))
def test_the_front_is_never_empty_and_does_not_depend_on_order_or_scale(
    points: list[tuple[int, int, float]], order: object
) -> None:
    costs, scores, steps = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    [front] = on_pareto_front(scores[None], costs, steps)
    best = scores == scores.max()
    assert front[best & (costs == costs[best].min())].all(), "the best method at its lowest cost is on the front"
    places = [*range(len(points))]
    order.shuffle(places)  # type: ignore[attr-defined]
    [again] = on_pareto_front(scores[places][None], costs[places], steps[places])
    assert again.tolist() == front[places].tolist()
    [scaled] = on_pareto_front(3 * scores[None] - 1, 2 * costs, 2 * steps)
    assert scaled.tolist() == front.tolist()
    for i, (cost, score, _) in enumerate(points):
        if all(abs(c - cost) >= max(s, steps[i]) for c, _, s in points):
            others = [(c, q) for j, (c, q, _) in enumerate(points) if j != i]
            beaten = any(c <= cost and q >= score and (c < cost or q > score) for c, q in others)
            assert front[i] == (not beaten)


def test_front_probability_is_the_share_of_draws() -> None:
    posterior = posterior_of([[0.5, 0.6, 0.7], [0.5, 0.6, 0.55], [0.5, 0.4, 0.7], [0.5, 0.6, 0.7]])
    costs, steps = {"a": 1.0, "b": 2.0, "c": 3.0, "one seed": 0.1}, dict.fromkeys(["a", "b", "c"], 0.0)
    assert front_probabilities(posterior, costs, steps) == {"a": 1.0, "b": 0.75, "c": 0.75}
    equal = dict.fromkeys(costs, 5.0)
    assert front_probabilities(posterior, equal, steps) == {"a": 0.0, "b": 0.25, "c": 0.75}
    assert pareto_front(posterior, {}, equal, steps) == ("c",)
    losses = Posterior({}, posterior.names, -posterior.draws, {}, higher_is_better=False)
    assert front_probabilities(losses, equal, steps) == {"a": 0.0, "b": 0.25, "c": 0.75}


def test_with_one_seed_each_the_scores_decide_the_front() -> None:
    none = Posterior({}, (), np.zeros((0, 0)), {})
    scores, costs = {"a": 0.5, "b": 0.7, "c": 0.6}, {"a": 1.0, "b": 1.5, "c": 1.6}
    assert front_probabilities(none, costs, dict.fromkeys(costs, 0.0)) == {}
    assert pareto_front(none, scores, costs, dict.fromkeys(costs, 0.0)) == ("a", "b")
    assert pareto_front(none, scores, costs, dict.fromkeys(costs, 1.0)) == ("b",)


@pytest.mark.slow
def test_area_intervals_and_front_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(1)
    costs = np.geomspace(1.0, 100.0, 12)
    hits: list[bool] = []
    stated, right = [], []
    for _ in range(SCENARIOS):
        truth = rng.normal(0.6, 0.02, 4)
        seeds = int(rng.choice([3, 5]))
        rates = rng.uniform(0.05, 0.5, 4)
        areas: dict[str, dict[int, float]] = {}
        finals: dict[str, dict[int, np.ndarray]] = {}
        expected = {}
        for name, level, rate in zip("abcd", truth, rates, strict=True):
            shape = 1 - np.exp(-rate * costs)
            expected[name] = area_under_curve(costs, level * shape, 1.0, 100.0)
            runs = level + rng.normal(0, 0.01, seeds)
            areas[name] = {seed: area_under_curve(costs, run * shape, 1.0, 100.0) for seed, run in enumerate(runs)}
            finals[name] = {seed: np.array([run]) for seed, run in enumerate(runs)}
        of_areas = fit(finals, share=False, means=areas, effort=HALF_EFFORT)
        hits += [of_areas.estimates[name].low <= expected[name] <= of_areas.estimates[name].high for name in "abcd"]  # type: ignore[operator]
        total = dict(zip("abcd", rng.permutation([1.0, 2.0, 3.0, 3.2]), strict=True))
        steps = dict.fromkeys("abcd", 0.5)
        stated += [*front_probabilities(fit(finals, share=False, effort=HALF_EFFORT), total, steps).values()]
        right += on_pareto_front(truth[None], np.array([*total.values()]), np.full(4, 0.5))[0].tolist()
    within = np.reshape(hits, (SCENARIOS, 4)).mean(1)
    assert abs(within.mean() - 0.95) < 3 * max(within.std() / math.sqrt(SCENARIOS), 0.006)
    missed = np.reshape(np.array(stated) - np.array(right), (SCENARIOS, 4)).mean(1)
    assert abs(missed.mean()) < 3 * missed.std() / math.sqrt(SCENARIOS)
    sure = [r for s, r in zip(stated, right, strict=True) if s > 0.9]
    assert np.mean(sure) > 0.9
    assert np.mean([r for s, r in zip(stated, right, strict=True) if s < 0.1]) < 0.1


@pytest.fixture
def crowd(plant: Plant) -> Comparison:
    """Twenty methods with one budget, which their last steps exceed by different amounts."""
    for index in range(20):
        cost = 100.0 / 10 * (1 + index / 400)
        for seed in (1, 2, 3):
            rising = [0.01 * i for i in range(10)]
            path = plant(f"m{index:02}", seed, [*rising, 0.3 + 0.02 * index + seed / 1000], cost=cost, examples=400)
    [section] = group_runs(find_runs([path.parent])[0])
    return compare(section)


def test_at_one_budget_the_last_step_does_not_decide_the_front(crowd: Comparison) -> None:
    starred = [line.method for line in crowd.lines if line.pareto]
    assert starred
    assert min(starred) >= "m17"
    assert crowd.fronts["gmacs"] == tuple(sorted(starred))
    for line in crowd.lines:
        assert line.pareto_probability is not None
        assert line.pareto == (line.pareto_probability >= 0.5)
        assert line.pareto_probability == pytest.approx(line.best or 0.0, abs=1e-9), "all cost the same"
    assert len(crowd.fronts["trainable_parameters"]) > 1, "parameter counts differ"
    assert {"seconds", "samples", "gmacs_per_step", "checkpoint_bytes"} <= crowd.fronts.keys()
