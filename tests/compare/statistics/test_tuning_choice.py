"""The effect of choosing settings, against numerical integration and hand-computed cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from peftkit.compare.statistics import tuning_choice
from peftkit.compare.statistics.observations import Array, Observations, Scale
from peftkit.compare.statistics.tuning_choice import (
    MEAN_DISTANCE_DEVIATION,
    MEAN_DISTANCES,
    PEAKS,
    TrialScores,
    Tuning,
    _draw_settings,
    _observe_settings,
    _peak_likelihoods,
    _residual_variance,
    _seed_variances,
    estimate_choice_effect,
)


def observations(number: int, **changes: object) -> Observations:
    """Methods with scores of 60 points and a seed deviation of one."""
    observed = Observations(
        names=tuple(f"m{i}" for i in range(number)),
        scale=Scale("plain", 1.0),
        means=np.full(number, 60.0),
        mean_scores=np.full(number, 60.0),
        num_seeds=np.full(number, 3.0),
        sum_squares=np.full(number, 2.0),
        run_example_variance=0.0,
        shared_example_variance=0.0,
        method_example_variance=0.0,
        prior_seed_deviation=1.0,
        scale_derivative=np.ones(number),
        example_deviation=40.0,
        num_groups=1,
    )
    return replace(observed, **changes)  # type: ignore[arg-type]


def trials(*scores: float) -> list[TrialScores]:
    return [TrialScores(number, np.array([score])) for number, score in enumerate(scores)]


def test_seed_variances_are_moderated_twice() -> None:
    observed = observations(
        2,
        num_seeds=np.array([3.0, 5.0]),
        sum_squares=np.array([2.0, 20.0]),
        prior_seed_deviation=2.0,
        run_example_variance=0.5,
    )
    pooled = (2 + 20 + 3 * (4 + 0.5)) / (2 + 4 + 3)
    expected = [(2 + 3 * pooled) / (2 + 3) - 0.5, (20 + 3 * pooled) / (4 + 3) - 0.5]
    assert _seed_variances(observed) == pytest.approx(expected)
    # The interaction of seed and example cannot explain more than nine tenths.
    much = replace(observed, run_example_variance=50.0)
    pooled = (2 + 20 + 3 * 54) / 9
    assert _seed_variances(much) == pytest.approx([0.1 * (2 + 3 * pooled) / 5, 0.1 * (20 + 3 * pooled) / 7])


def test_the_residual_variance_excludes_effects_that_trials_share() -> None:
    table = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
    effects = np.array([5.0, -3.0])[:, None] + np.array([0.0, 10.0, 20.0, 5.0])
    # Residuals are 1/2 for two examples of each trial: a mean square of 1/3, for means of 4 examples.
    assert _residual_variance([*table]) == pytest.approx(4 * 0.25 / 3 / 4)
    assert _residual_variance([*(table + effects)]) == pytest.approx(1 / 12)
    assert _residual_variance([np.array([1.0]), np.array([3.0])]) == 0.0
    assert _residual_variance([np.array([0.0, 2.0]), np.array([2.0, 0.0])]) == pytest.approx(4 * 1.0 / 1 / 2)


def observe_settings(*arguments: Any) -> tuple[Array, Array, Array, bool]:
    settings = _observe_settings(*arguments)
    assert settings is not None
    return settings


def test_settings_with_dev_scores_only_are_relative_to_the_mean_trial() -> None:
    tuning = Tuning(
        [TrialScores(0, np.array([1.0])), TrialScores(1, np.array([4.0])), TrialScores(1, np.array([7.0]))], 1
    )
    values, errors, selection, comparable = observe_settings(tuning, 2.0, 99.0, 3.0, 0.5)
    assert not comparable
    assert values == pytest.approx([2 * -3.0, 2 * 1.5])
    assert errors == pytest.approx([3.5, 3.5 / 2]), "over seeds, and over examples as a test score"
    assert selection == pytest.approx([3.5, 3.5 / 2])


def test_settings_with_dev_examples_have_their_residual_variance() -> None:
    dev = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
    tuning = Tuning([TrialScores(k, row + k) for k, row in enumerate(dev)], 1)
    values, errors, selection, comparable = observe_settings(tuning, -2.0, 99.0, 3.0, 0.5)
    assert not comparable
    assert values == pytest.approx([1.0, -1.0])
    assert errors == pytest.approx([3 + 4 / 12] * 2)
    assert selection == pytest.approx(errors)


def test_settings_with_test_scores_are_relative_to_the_final_runs() -> None:
    dev = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]])  # residual variance 1/12
    test = np.array([[2.0, 0.0], [5.0, 1.0]])  # residual variance (4 · 1/4) / 2
    tuning = Tuning([TrialScores(k, dev[k] + k, test[k]) for k in range(2)], 0)
    values, errors, selection, comparable = observe_settings(tuning, 2.0, 1.5, 3.0, 0.5)
    by_dev, by_test = 1 / 12, 1 / 2
    share = by_dev / (by_dev + by_test)
    assert comparable
    mean, from_dev, from_test = 2.0 - 1.5, np.array([-0.5, 0.5]), np.array([-1.0, 1.0])
    assert values == pytest.approx(2 * (mean + (1 - share) * from_dev + share * from_test))
    error = (1 - share) ** 2 * by_dev + share**2 * by_test
    assert error == pytest.approx(by_dev * by_test / (by_dev + by_test)), "weights are inverse to variances"
    assert errors == pytest.approx([3 + 4 * error] * 2)
    assert selection == pytest.approx([3 + 4 * by_dev] * 2)


def test_without_variance_over_examples_dev_and_test_count_alike() -> None:
    tuning = Tuning([TrialScores(k, np.array([k, k], float), np.array([3.0 * k])) for k in range(2)], 0)
    values, errors, selection, comparable = observe_settings(tuning, 1.0, 1.0, 3.0, 0.5)
    assert comparable
    assert values == pytest.approx([0.5 - 1.0, 0.5 + 1.0])
    assert errors.tolist() == selection.tolist() == [3.0, 3.0]


def test_test_scores_count_if_every_trial_has_one() -> None:
    some = [TrialScores(0, np.array([1.0]), np.array([2.0])), TrialScores(1, np.array([4.0]))]
    _, _, _, comparable = observe_settings(Tuning(some, 0), 1.0, 1.0, 3.0, 0.5)
    assert not comparable
    assert _observe_settings(Tuning([some[1]], 1), 1.0, 1.0, 3.0, 0.5) is None, "the first setting has no trial"


VALUES, PRECISIONS = np.array([3.0, -1.0, 2.0]), np.array([1.0, 0.25, 4.0])
DISTANCES = np.array([0.5, 2.0, 8.0])


def likelihood(peak: float, distance: float, values: Array, precisions: Array) -> float:
    """The likelihood of scores whose settings have exponential distances below a peak, by integration."""
    result = 1.0
    for value, precision in zip(values, precisions, strict=True):

        def density(score: float, value: float = value, precision: float = precision) -> float:
            return float(stats.norm.pdf(value, score, precision**-0.5) * stats.expon.pdf(peak - score, scale=distance))

        result *= integrate.quad(density, min(peak, value) - 12 / precision**0.5, peak, limit=200)[0]
    return result


def test_likelihoods_of_peaks_equal_numerical_integration() -> None:
    peaks, likelihoods = _peak_likelihoods(VALUES, PRECISIONS, DISTANCES)
    scales = 2 + DISTANCES / 3
    assert peaks == pytest.approx(3.0 + PEAKS * scales[:, None])
    assert likelihoods.max() == 1.0
    places = [(row, column) for row in range(3) for column in (10, 25, 30, 45)]
    # The steps of a row are proportional to its scale, and the prior of the peak is flat.
    expected = np.array([likelihood(peaks[p], DISTANCES[p[0]], VALUES, PRECISIONS) * scales[p[0]] for p in places])
    ratios = np.array([likelihoods[p] for p in places]) / expected
    assert ratios == pytest.approx(np.full(len(places), ratios[0]), rel=1e-6)


def test_the_grid_of_peaks_holds_the_posterior() -> None:
    assert np.diff(PEAKS) == pytest.approx(0.15), "fine enough to integrate a normal distribution"
    for values, precisions in ((VALUES, PRECISIONS), (np.zeros(8), np.ones(8)), (np.array([0.0, 5.0]), np.ones(2))):
        _, likelihoods = _peak_likelihoods(values, precisions, MEAN_DISTANCES * 40.0)
        weights = likelihoods.sum(0) / likelihoods.sum()
        assert max(weights[0], weights[-1]) < 0.001, "its ends are far from the likely peaks"


def exact_settings(methods: Sequence[tuple[Array, Array]], unit: float) -> list[tuple[Array, Array]]:
    """Means and deviations of the posterior of settings, by summing over all grids."""
    logs, distances = np.log(MEAN_DISTANCES), MEAN_DISTANCES * unit
    prior = stats.norm.pdf(logs, logs[:, None], MEAN_DISTANCE_DEVIATION)
    prior /= prior.sum(1, keepdims=True)  # of a method's distance, given the mean of its logarithm over methods
    grids = [_peak_likelihoods(*method, distances) for method in methods]
    results = []
    for place, (values, precisions) in enumerate(methods):
        others = np.ones(len(logs))
        for other, (_, likelihoods) in enumerate(grids):
            others *= 1.0 if other == place else prior @ likelihoods.sum(1)
        peaks, likelihoods = grids[place]
        weights = (others[:, None] * prior).sum(0)[:, None] * likelihoods
        weights /= weights.sum()
        # Each setting's score is a normal distribution, cut off at the peak.
        middle = values + 1 / (precisions * distances[:, None, None])
        cut = (peaks[..., None] - middle) * np.sqrt(precisions)
        hazard = np.exp(stats.norm.logpdf(cut) - stats.norm.logcdf(cut))
        mean, variance = middle - hazard / np.sqrt(precisions), (1 - cut * hazard - hazard**2) / precisions
        total = (weights[..., None] * mean).sum((0, 1))
        second = (weights[..., None] * (variance + mean**2)).sum((0, 1))
        results.append((total, np.sqrt(second - total**2)))
    return results


@pytest.mark.parametrize(
    "methods",
    [
        [(VALUES, PRECISIONS)],
        [(VALUES, PRECISIONS), (np.array([0.0, 60.0]), np.ones(2))],
        [(np.array([0.0, -0.2]), np.ones(2)), (np.array([0.0, 0.1, 0.2]), np.ones(3)), (VALUES, PRECISIONS)],
    ],
)
def test_draws_of_settings_have_the_exact_posterior(
    methods: list[tuple[Array, Array]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_choice, "DRAWS", 40_000)
    drawn = _draw_settings(methods, 40.0, np.random.default_rng(0))
    for draws, (means, deviations) in zip(drawn, exact_settings(methods, 40.0), strict=True):
        assert draws.shape == (40_000, len(means))
        assert np.abs(draws.mean(0) - means).max() < 0.025 * deviations.min()
        assert draws.std(0) == pytest.approx(deviations, rel=0.025)


def planted_settings(monkeypatch: pytest.MonkeyPatch, *drawn: Array) -> list[tuple[Array, Array]]:
    """Replace the draws of settings; returns the scores and precisions that they would be drawn from."""
    given: list[tuple[Array, Array]] = []

    def draw_settings(methods: Sequence[tuple[Array, Array]], unit: float, rng: np.random.Generator) -> list[Array]:
        assert unit == 40.0
        given.extend(methods)
        return [np.asarray(each) for each in drawn]

    monkeypatch.setattr(tuning_choice, "_draw_settings", draw_settings)
    return given


def with_tests(*scores: float) -> list[TrialScores]:
    """Trials whose dev and test scores are equal and without noise over examples."""
    return [TrialScores(number, np.full(2, score), np.array([score])) for number, score in enumerate(scores)]


def test_the_effect_of_a_choice_without_noise_is_the_best_setting_less_the_chosen_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With equal settings but for tiny noise, the simulated tuning picks the highest of each draw."""
    drawn = 100 * np.random.default_rng(0).standard_normal((400, 3)) + np.array([1.0, 0.0, -1.0])
    planted_settings(monkeypatch, drawn, drawn)
    tiny = {"sum_squares": np.full(3, 1e-12), "prior_seed_deviation": 1e-6}
    tunings = {"m0": Tuning(with_tests(61.0, 60.0, 59.0), 1), "m2": Tuning(trials(61.0, 60.0, 59.0), 1)}
    effect = estimate_choice_effect(observations(3, **tiny), tunings, np.random.default_rng(1))
    difference = drawn.max(1) - drawn[:, 1]
    slope = stats.linregress(drawn[:, 1], difference).slope
    assert -1 < slope < 0
    rest = difference - slope * drawn[:, 1]
    assert effect.shift == pytest.approx([rest.mean(), 0.0, difference.mean()], rel=1e-3)
    assert effect.gain == pytest.approx([1 + slope, 1.0, 1.0], rel=1e-3)
    assert effect.variance == pytest.approx([rest.var(ddof=1), 0.0, difference.var(ddof=1)], rel=1e-3)


def test_noise_decides_between_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting 1.5 points lower is picked with the probability that its noise exceeds that gap."""
    monkeypatch.setattr(tuning_choice, "SIMULATED_TUNINGS", 500)
    level = np.random.default_rng(0).standard_normal((400, 1))
    planted_settings(monkeypatch, level + np.array([0.0, -1.5]))
    observed = observations(1)
    effect = estimate_choice_effect(observed, {"m0": Tuning(with_tests(60.0, 58.5), 0)}, np.random.default_rng(1))
    [variance] = _seed_variances(observed)
    lower = stats.norm.sf(1.5 / np.sqrt(2 * variance))
    assert effect.shift == pytest.approx([-1.5 * lower], rel=0.02)
    assert effect.gain == pytest.approx([1.0], abs=0.005), "the difference does not depend on the level"
    assert effect.variance == pytest.approx([1.5**2 * lower * (1 - lower) / 500], rel=0.25)


def test_the_gain_is_between_zero_and_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    chosen = rng.standard_normal(400)
    tiny = {"sum_squares": np.full(1, 1e-12), "prior_seed_deviation": 1e-6}
    for other, gain in ((3 * chosen + 100, 1.0), (100 - 3 * chosen, 0.0), (np.full(400, 100.0), 0.0)):
        planted_settings(monkeypatch, np.stack([chosen, other], 1))
        tuning = {"m0": Tuning(with_tests(60.0, 61.0), 0)}
        assert estimate_choice_effect(observations(1, **tiny), tuning, rng).gain == pytest.approx([gain], abs=1e-9)
    planted_settings(monkeypatch, np.stack([np.zeros(400), np.full(400, 2.0)], 1))
    effect = estimate_choice_effect(observations(1, **tiny), tuning, rng)
    assert (effect.shift.tolist(), effect.gain.tolist(), effect.variance.tolist()) == ([2.0], [1.0], [0.0])


def test_final_runs_inform_about_the_chosen_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    observed = observations(2, run_example_variance=0.5, num_seeds=np.array([3.0, 6.0]))
    given = planted_settings(monkeypatch, np.zeros((400, 3)), np.zeros((400, 3)))
    tunings = {"m0": Tuning(trials(55.0, 58.0, 61.0), 1), "m1": Tuning(with_tests(55.0, 58.0, 58.0), 1)}
    estimate_choice_effect(observed, tunings, np.random.default_rng(0))
    first, second = _seed_variances(observed)
    (values, precisions), (compared, informed) = given
    assert values == pytest.approx([-3.0, 0.0, 3.0])
    assert precisions == pytest.approx(np.full(3, 1 / (first + 0.5)))
    final = 6 / (second + 0.5)
    assert informed == pytest.approx([1 / second, 1 / second + final, 1 / second])
    # Relative to the final runs, which have 60 points and the chosen setting.
    assert compared == pytest.approx([-5.0, -2.0 * (1 / second) / (1 / second + final), -2.0])


@pytest.mark.parametrize(
    "tuning",
    [
        Tuning([], 0),
        Tuning([*trials(60.0), *trials(50.0)], 0),
        Tuning([TrialScores(0, np.array([60.0])), TrialScores(2, np.array([50.0]))], 0),
    ],
)
def test_fewer_than_two_settings_or_a_missing_one_have_no_effect(tuning: Tuning) -> None:
    other = Tuning(trials(60.0, 59.0), 0)
    effect = estimate_choice_effect(observations(3), {"m0": tuning, "m2": other}, np.random.default_rng(0))
    assert (effect.shift[:2].tolist(), effect.gain[:2].tolist(), effect.variance[:2].tolist()) == (
        [0.0, 0.0],
        [1.0, 1.0],
        [0.0, 0.0],
    )
    assert effect.shift[2] != 0
    assert effect.variance[2] > 0


def test_choice_effect_variance_equals_its_mean_squared_error() -> None:
    """Settings lie on a curve and are tried once; the truth is the expected score over choices."""
    rng = np.random.default_rng(11)
    methods, settings, seeds, noise = 400, 5, 10, 1.0
    curves = (
        -np.exp(0.5 * rng.standard_normal((methods, 1))) * (np.arange(settings) - rng.uniform(1, 3, (methods, 1))) ** 2
    )
    test = curves + rng.standard_normal(curves.shape)
    dev = test + noise * rng.standard_normal(curves.shape)
    chosen = dev.argmax(1)
    runs = curves[np.arange(methods), chosen][:, None] + rng.standard_normal((methods, seeds))
    again = curves[:, None] + np.sqrt(1 + noise**2) * rng.standard_normal((methods, 2000, settings))
    truth = np.take_along_axis(curves, again.argmax(2), 1).mean(1)
    squares = ((runs - runs.mean(1, keepdims=True)) ** 2).sum(1)
    observed = observations(
        methods, means=runs.mean(1), mean_scores=runs.mean(1), num_seeds=np.full(methods, seeds), sum_squares=squares
    )
    # Two dev examples, whose differences between trials give the noise of their mean.
    spots = np.sqrt(2) * noise * rng.standard_normal((2, methods, settings))
    tunings = {
        name: Tuning(
            [
                TrialScores(k, dev[m, k] + 0.7 * np.array([1, -1]) * spots[0, m, k], test[m, [k]])
                for k in range(settings)
            ],
            int(chosen[m]),
        )
        for m, name in enumerate(observed.names)
    }
    effect = estimate_choice_effect(observed, tunings, rng)
    errors = observed.means + effect.shift - truth
    stated = effect.variance + effect.gain**2 * squares / (seeds - 1) / seeds
    assert errors.mean() == pytest.approx(0, abs=0.1)
    assert (errors**2).mean() == pytest.approx(stated.mean(), rel=0.3)
    unaware = observed.means - truth
    assert (errors**2).mean() < 0.7 * (unaware**2).mean()


def test_a_dev_score_without_examples_is_uncertain() -> None:
    tuning = Tuning([TrialScores(0, np.array([54.0])), TrialScores(1, np.array([60.0]))], 1)
    exact, noisy = (
        estimate_choice_effect(observations(2, run_example_variance=run), {"m0": tuning}, np.random.default_rng(12))
        for run in (0.0, 4.0)
    )
    assert exact.shift[0] == pytest.approx(0, abs=0.05)
    assert noisy.shift[0] < -0.1
    assert noisy.variance[0] > 10 * exact.variance[0]
