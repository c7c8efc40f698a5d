"""The sampler's posterior equals that of importance sampling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from peftkit.compare.statistics.hierarchy import (
    DEGREES_OF_FREEDOM,
    LOG_DEVIATION_CENTRE_DEVIATION,
    LOG_DEVIATION_CENTRES,
    LOG_DEVIATION_DEVIATIONS,
    METHOD_DEVIATIONS,
    PROBABILITY_EQUAL,
    SEED_DEVIATIONS,
    ChoiceEffect,
    SamplingEffort,
    _draw_index,
    _sum_squared_distances,
    sample_posterior,
)
from peftkit.compare.statistics.observations import Array, Observations, Scale

UNIT = 40.0


def observations(means: list[float], squares: list[float], seeds: list[int], **changes: float) -> Observations:
    number = len(means)
    raw = np.array(means)
    values = {
        **{"run_example_variance": 0.0, "shared_example_variance": 0.0},
        **{"method_example_variance": 0.0, "prior_seed_deviation": 1.0},
        **changes,
    }
    return Observations(
        names=tuple(f"m{i}" for i in range(number)),
        scale=Scale("plain", 1.0),
        means=raw,
        mean_scores=raw,
        num_seeds=np.array(seeds, dtype=float),
        sum_squares=np.array(squares),
        scale_derivative=np.ones(number),
        example_deviation=UNIT,
        num_groups=10**12,  # a large number, so that the interaction is known exactly
        **values,
    )


def by_importance(observed: Observations, choice: ChoiceEffect, draws: int = 100_000) -> tuple[Array, Array]:
    """Means and standard deviations of the posterior, by weighting draws from the prior with their likelihood."""
    rng = np.random.default_rng(5)
    number, unit = len(observed.means), observed.example_deviation
    means = (observed.means + choice.shift) / unit
    squares, seeds = observed.sum_squares / unit**2, observed.num_seeds
    logs = np.log(SEED_DEVIATIONS)
    # The distribution of a method's standard deviation between seeds, given its distribution over methods.
    steps, widths = (
        rng.integers(0, len(LOG_DEVIATION_CENTRES), draws),
        LOG_DEVIATION_DEVIATIONS[rng.integers(0, len(LOG_DEVIATION_DEVIATIONS), draws)],
    )
    places = np.log(observed.prior_seed_deviation / unit) + LOG_DEVIATION_CENTRES[steps]
    logs_of_weights = -0.5 * (LOG_DEVIATION_CENTRES[steps] / LOG_DEVIATION_CENTRE_DEVIATION) ** 2
    variances = np.empty((draws, number))
    seed_variances = np.empty((draws, number))
    for method in range(number):
        densities = np.exp(-0.5 * ((logs - places[:, None]) / widths[:, None]) ** 2) / widths[:, None]
        # The likelihood of each method's seeds, given their mean.
        totals = SEED_DEVIATIONS**2 + observed.run_example_variance / unit**2
        densities *= totals ** (-0.5 * (seeds[method] - 1)) * np.exp(-0.5 * squares[method] / totals)
        sums = densities.cumsum(1)
        drawn = (sums < rng.random((draws, 1)) * sums[:, -1:]).sum(1)
        logs_of_weights += np.log(sums[:, -1])
        seed_variances[:, method] = totals[drawn] / seeds[method]
    spreads = np.where(
        rng.random(draws) < PROBABILITY_EQUAL,
        METHOD_DEVIATIONS[0],
        METHOD_DEVIATIONS[rng.integers(1, len(METHOD_DEVIATIONS), draws)],
    )
    between = spreads[:, None] ** 2 / (rng.chisquare(DEGREES_OF_FREEDOM, (draws, number)) / DEGREES_OF_FREEDOM)
    noise = choice.gain**2 * seed_variances + (observed.method_example_variance + choice.variance) / unit**2
    variances = noise + between
    # The common mean has a flat prior.
    precision = (1 / variances).sum(1)
    middle = (means / variances).sum(1) / precision
    logs_of_weights -= 0.5 * (np.log(variances).sum(1) + np.log(precision))
    logs_of_weights -= 0.5 * ((means - middle[:, None]) ** 2 / variances).sum(1)
    weights = np.exp(logs_of_weights - logs_of_weights.max())
    weights /= weights.sum()
    kept = noise / variances
    expected = kept * middle[:, None] + (1 - kept) * means
    spread = noise * between / variances + kept**2 / precision[:, None]
    mean = weights @ expected
    return mean * unit, np.sqrt(
        weights @ (spread + expected**2) - mean**2 + observed.shared_example_variance / unit**2
    ) * unit


NOTHING = ChoiceEffect(np.zeros(3), np.ones(3), np.zeros(3))
CASES = {
    "apart": (observations([50.0, 53.0, 60.0], [4.0, 1.0, 9.0], [3, 3, 3]), NOTHING),
    "close together": (observations([50.0, 50.5, 51.0], [8.0, 6.0, 2.0], [3, 3, 3]), NOTHING),
    "unequal numbers of seeds": (observations([50.0, 52.0, 51.0], [0.5, 6.0, 20.0], [2, 3, 6]), NOTHING),
    "examples vary": (
        observations(
            [50.0, 53.0, 55.0],
            [4.0, 1.0, 9.0],
            [3, 3, 3],
            method_example_variance=2.0,
            run_example_variance=0.5,
            shared_example_variance=3.0,
        ),
        NOTHING,
    ),
    "chosen settings": (
        observations([50.0, 53.0, 55.0], [4.0, 1.0, 9.0], [3, 3, 3], prior_seed_deviation=0.5),
        ChoiceEffect(np.array([0.0, -1.0, 2.0]), np.array([1.0, 0.5, 0.2]), np.array([0.0, 1.0, 4.0])),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("observed", "choice"), CASES.values(), ids=CASES)
def test_the_posterior_equals_importance_sampling(observed: Observations, choice: ChoiceEffect) -> None:
    means, deviations = by_importance(observed, choice)
    drawn = sample_posterior(
        observed, choice, np.random.default_rng(1), SamplingEffort(chains=200, warm_up_states=30, kept_states=80)
    )
    assert drawn.shape == (200 * 80 * 4, 3)
    assert drawn.mean(0) == pytest.approx(means, abs=0.04 * deviations.min())
    assert drawn.std(0) == pytest.approx(deviations, rel=0.04)


def test_the_sampling_effort_sets_the_number_of_draws() -> None:
    observed, choice = CASES["apart"]
    effort = SamplingEffort(chains=3, warm_up_states=1, kept_states=2, draws_per_state=5)
    assert sample_posterior(observed, choice, np.random.default_rng(0), effort).shape == (3 * 2 * 5, 3)
    assert sample_posterior(observed, choice, np.random.default_rng(0), SamplingEffort()).shape == (32 * 40 * 4, 3)


def test_draw_index_follows_the_probabilities() -> None:
    chances = np.array([[0.1, 0.6, 0.3], [0.0, 0.0, 1.0]])
    with np.errstate(divide="ignore"):
        logs = np.broadcast_to(np.log(chances) + 900, (20_000, 2, 3))
    chosen = _draw_index(logs, np.random.default_rng(0))
    assert [np.bincount(column, minlength=3) / 20_000 for column in chosen.T] == [
        pytest.approx(each, abs=0.01) for each in chances
    ]


def test_sum_squared_distances() -> None:
    values, places = np.array([[1.0, 2.0], [0.0, 5.0]]), np.array([0.0, 1.0, -3.0])
    assert _sum_squared_distances(values, places) == pytest.approx(((values[:, :, None] - places) ** 2).sum(1))


class Extreme(np.random.Generator):
    """A generator whose uniform numbers are all 0, or just below 1."""

    def __init__(self, value: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, size: Any = None, *_: Any, **__: Any) -> Any:
        return np.full(size, self.value)


@pytest.mark.parametrize(("value", "index"), [(0.0, 0), (0.25, 0), (0.5, 1), (np.nextafter(1, 0), 3)])
def test_draw_index_inverts_the_cumulative_probabilities(value: float, index: int) -> None:
    logs = np.log([[0.3, 0.3, 0.2, 0.2], [0.9, 0.03, 0.03, 0.04]])
    first, second = _draw_index(logs, Extreme(value))
    assert first == index
    assert second == (3 if index == 3 else 0)


def test_the_grids_are_those_that_intervals_were_calibrated_with() -> None:
    """Scripts/calibrate_statistics.py measures the coverage with them."""
    assert METHOD_DEVIATIONS[:2].tolist() == [0.001, 0.01]
    assert np.diff(np.log(METHOD_DEVIATIONS[1:])) == pytest.approx(np.log(100) / 39)
    assert SEED_DEVIATIONS[[0, -1]].tolist() == [0.0005, 2.0]
    assert np.diff(np.log(SEED_DEVIATIONS)) == pytest.approx(np.log(4000) / 55)
    assert np.diff(LOG_DEVIATION_CENTRES) == pytest.approx(0.25)
    assert LOG_DEVIATION_CENTRES.mean() == pytest.approx(0.0)
    steps = np.diff(LOG_DEVIATION_DEVIATIONS)
    assert 0 < steps.min() < steps.max() <= 0.3 + 1e-9


def test_the_number_of_groups_sets_how_uncertain_the_interaction_is() -> None:
    observed, choice = CASES["examples vary"]
    effort = SamplingEffort(chains=2, warm_up_states=1, kept_states=2)
    unknown, one, two = (
        sample_posterior(replace(observed, num_groups=groups), choice, np.random.default_rng(2), effort)
        for groups in (0, 1, 2)
    )
    assert np.array_equal(unknown, one), "an unknown number counts as one"
    assert not np.array_equal(one, two)


def test_the_interaction_of_methods_and_examples_is_uncertain() -> None:
    """Its variance is estimated from groups of examples; few of them widen the tails of the posterior."""
    observed, choice = CASES["examples vary"]
    effort = SamplingEffort(chains=200, warm_up_states=20, kept_states=40)
    observed = replace(observed, method_example_variance=50.0)
    tails = []
    for groups in (0, 4, 10**12):
        drawn = sample_posterior(replace(observed, num_groups=groups), choice, np.random.default_rng(2), effort)
        centred = drawn - np.median(drawn, axis=0)
        low, high = np.quantile(np.abs(centred), [0.5, 0.99], axis=0)
        tails.append((high / low).mean())
    assert tails[0] > 1.1 * tails[1] > 1.1 * 1.05 * tails[2]
