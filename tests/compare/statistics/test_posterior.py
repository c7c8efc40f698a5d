"""The posterior of methods' scores, on planted truths."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.compare.statistics import Posterior, Trial, Tuning, fit
from peftkit.compare.statistics.observations import Array, Observations, Scale, observe
from peftkit.compare.statistics.posterior import MethodEstimate
from peftkit.compare.statistics.tuning_choice import estimate_choice_effect

Scores = dict[str, dict[int, Array]]


def planted(
    rng: np.random.Generator, rates: list[float], seeds: int, examples: int, noise: float = 0.01, group: int = 1
) -> Scores:
    """Runs whose rate of right answers varies by seed; examples of a group are right or wrong together."""
    hard = rng.random(examples // group)
    scores: Scores = {}
    for number, rate in enumerate(rates):
        difficulties = [(hard + 0.1 * rng.standard_normal(len(hard))) % 1 for _ in range(seeds)]
        right = [np.repeat((each < rate + rng.normal(0, noise)).astype(float), group) for each in difficulties]
        scores[f"m{number}"] = dict(enumerate(right))
    return scores


def test_probabilities_and_differences_come_from_the_same_draws() -> None:
    posterior = fit(planted(np.random.default_rng(0), [0.6, 0.62, 0.7], 3, 500), share=True)
    assert sum(each.best for each in posterior.estimates.values() if each.best is not None) == pytest.approx(1)
    assert posterior.estimates["m2"].best == pytest.approx((posterior.draws.argmax(1) == 2).mean(), abs=1e-9)
    assert posterior.within_margin_of_best(0.03) == pytest.approx({"m0": 0.0, "m1": 0.0, "m2": 1.0}, abs=0.05)
    gap = posterior.difference("m2", "m0")
    assert gap.mean == pytest.approx(posterior.estimates["m2"].score - posterior.estimates["m0"].score)
    assert gap.better == pytest.approx(1 - posterior.difference("m0", "m2").better)
    assert len(posterior.differences()) == 3


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 6), st.integers(2, 4), st.integers(0, 10_000), st.booleans())
def test_the_posterior_is_repeatable_and_independent_of_method_order(
    methods: int, seeds: int, seed: int, share: bool
) -> None:
    rng = np.random.default_rng(seed)
    scores = planted(rng, rng.uniform(0.2, 0.95, methods).tolist(), seeds, 60, 0.03)
    turned = {name: scores[name] for name in reversed(scores)}
    one, other = fit(scores, share=share), fit(turned, share=share)
    assert one.estimates == other.estimates
    for each in one.estimates.values():
        assert each.low is not None
        assert each.high is not None
        assert each.low < each.score < each.high
        if share:
            assert 0 <= each.low <= each.high <= 1


def test_the_highest_of_many_equal_methods_is_shrunk() -> None:
    rng = np.random.default_rng(1)
    gaps, observed = [], []
    for _ in range(20):
        scores = planted(rng, [0.6] * 30, 2, 200, 0.02)
        posterior = fit(scores, share=True)
        gaps.append(max(each.score for each in posterior.estimates.values()) - 0.6)
        observed.append(max(np.mean([*runs.values()]) for runs in scores.values()) - 0.6)
    assert np.mean(observed) > 0.03
    assert np.mean(gaps) < 0.4 * np.mean(observed)


def test_equal_methods_share_the_probability_of_being_best() -> None:
    rng = np.random.default_rng(2)
    far = fit(planted(rng, [0.6, 0.75], 3, 1000), share=True)
    assert far.estimates["m1"].best is not None
    assert far.estimates["m1"].best > 0.99
    claims = [
        max(e.best or 0 for e in fit(planted(rng, [0.6] * 2, 3, 500), share=True).estimates.values()) for _ in range(40)
    ]
    assert np.mean(np.array(claims) >= 0.95) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("truth", [0.98, 0.995, 1.0])
@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_of_scores_near_one_are_calibrated(truth: float, seeds: int) -> None:
    rng = np.random.default_rng(int(1000 * truth) + seeds)
    rounds, covered = 150, 0
    for _ in range(rounds):
        right = (rng.random(200) < truth).astype(float)  # all seeds learn the same answers
        scores = {name: dict.fromkeys(range(seeds), right) for name in ("a", "b")}
        each = fit(scores, share=True).estimates["a"]
        assert each.low is not None
        assert each.high is not None
        assert each.low < each.high <= 1
        covered += each.low <= truth <= each.high
    assert covered / rounds >= 0.95 - 3 * (0.95 * 0.05 / rounds) ** 0.5


def test_losses_are_positive_and_lower_is_better() -> None:
    rng = np.random.default_rng(3)
    scores = {
        name: {s: (level + 0.01 * rng.standard_normal()) * rng.lognormal(-0.125, 0.5, 400) for s in range(3)}
        for name, level in (("low", 1.0), ("high", 1.6))
    }
    posterior = fit(scores, share=False, higher_is_better=False)
    low = posterior.estimates["low"]
    assert low.best is not None
    assert low.low is not None
    assert low.best > 0.99
    assert 0 < low.low < 1.0 < (low.high or 0)
    assert posterior.difference("low", "high").mean == pytest.approx(0.6, abs=0.15)
    assert posterior.not_inferior("low", "high", 0.01) > 0.99
    assert posterior.not_inferior("high", "low", 0.01) < 0.01
    assert posterior.within_margin_of_best(0.1) == pytest.approx({"low": 1.0, "high": 0.0}, abs=0.01)


def test_equivalence_needs_evidence() -> None:
    rng = np.random.default_rng(4)
    few = fit(planted(rng, [0.6, 0.6], 2, 100), share=True)
    many = fit(planted(rng, [0.6, 0.6], 10, 20_000, 0.001), share=True)
    assert few.equivalent("m0", "m1", 0.01) < 0.9
    assert many.equivalent("m0", "m1", 0.01) > 0.95
    assert few.not_inferior("m0", "m1", 0.01) + few.not_inferior("m1", "m0", 0.01) >= 1
    assert many.within_margin_of_best(0.02) == pytest.approx({"m0": 1.0, "m1": 1.0}, abs=0.01)


def test_methods_with_one_seed_are_not_ranked() -> None:
    posterior = fit(planted(np.random.default_rng(5), [0.5, 0.9], 1, 100), share=True)
    assert posterior.names == ()
    assert posterior.differences() == ()
    assert posterior.within_margin_of_best(0.01) == {}
    assert all(each.best is None for each in posterior.estimates.values())
    low, high = posterior.estimates["m0"].low, posterior.estimates["m0"].high
    assert low is not None
    assert high is not None
    assert high - low == pytest.approx(2 * 1.96 * 0.05, rel=0.1)


def test_a_method_with_one_seed_does_not_change_the_others() -> None:
    scores = planted(np.random.default_rng(6), [0.5, 0.6, 0.9], 3, 200)
    scores["m2"] = {0: scores["m2"][0]}
    posterior = fit(scores, share=True)
    assert posterior.estimates["m2"].best is None
    assert posterior.names == ("m0", "m1")
    assert posterior.estimates["m0"] == fit({name: scores[name] for name in ("m0", "m1")}, share=True).estimates["m0"]


def test_intervals_of_single_scores_use_seeds_and_the_number_of_rows() -> None:
    scores = {
        name: {s: np.array([v]) for s, v in enumerate(values)}
        for name, values in {"a": (0.5, 0.52), "b": (0.6, 0.61)}.items()
    }
    alone, counted = fit(scores, share=True), fit(scores, share=True, rows=100)
    widths = [_width(posterior, "a") for posterior in (alone, counted)]
    assert widths[0] > 0
    assert widths[1] > max(0.15, widths[0])
    whole = fit({n: {s: v * 100 for s, v in values.items()} for n, values in scores.items()}, share=False)
    assert _width(whole, "a") > 1


@pytest.mark.parametrize("size", [4, 9])
def test_intervals_of_grouped_examples_widen_by_the_root_of_the_group_size(size: int) -> None:
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(20):
        scores = planted(rng, [0.6], 1, 100 * size, group=size)
        groups = [str(i // size) for i in range(100 * size)]
        ratios.append(_width(fit(scores, share=True, groups=groups), "m0") / _width(fit(scores, share=True), "m0"))
    assert np.mean(ratios) == pytest.approx(np.sqrt(size), rel=0.07)


def tuning(rng: np.random.Generator, rates: list[float], chosen: int, noise: float = 0.0) -> Tuning:
    def answers(rate: float) -> Array:
        return (np.linspace(0, 1, 400) < rate + noise * rng.standard_normal()).astype(float)

    return Tuning([Trial(k, answers(rate), answers(rate)) for k, rate in enumerate(rates)], chosen)


def test_an_uncertain_tuning_choice_widens_the_interval_and_lowers_the_score() -> None:
    rng = np.random.default_rng(7)
    scores = planted(rng, [0.6, 0.6], 5, 2000, 0.005)
    alone = fit(scores, share=True)
    clear = fit(scores, share=True, tunings={"m0": tuning(rng, [0.2, 0.6, 0.3], 1)})
    doubtful = fit(scores, share=True, tunings={"m0": tuning(rng, [0.58, 0.6, 0.58], 1)})
    assert clear.estimates["m0"].score == pytest.approx(alone.estimates["m0"].score, abs=0.004)
    assert _width(clear, "m0") == pytest.approx(_width(alone, "m0"), rel=0.2)
    assert doubtful.estimates["m0"].score < alone.estimates["m0"].score
    assert doubtful.estimates["m0"].score > 0.58


def plain_observations(means: Array, squares: Array, seeds: int, run: float = 0.0) -> Observations:
    """Methods with scores in points and a seed deviation of about one."""
    number = len(means)
    names = tuple(f"m{place:02d}" for place in range(number))
    counts, slopes = np.full(number, float(seeds)), np.ones(number)
    return Observations(names, Scale("plain", 1.0), means, means, counts, squares, run, 0.0, 0.0, 1.0, slopes, 40.0, 1)


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
    observed = plain_observations(runs.mean(1), squares, seeds)
    # Two dev examples, whose differences between trials give the noise of their mean.
    spots = np.sqrt(2) * noise * rng.standard_normal((2, methods, settings))
    tunings = {
        name: Tuning(
            [Trial(k, dev[m, k] + 0.7 * np.array([1, -1]) * spots[0, m, k], test[m, [k]]) for k in range(settings)],
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
    means, squares = np.array([60.0, 60.0]), np.array([2.0, 2.0])
    tuning = Tuning([Trial(0, np.array([54.0])), Trial(1, np.array([60.0]))], 1)
    exact, noisy = (
        estimate_choice_effect(plain_observations(means, squares, 3, run), {"m00": tuning}, np.random.default_rng(12))
        for run in (0.0, 4.0)
    )
    assert exact.shift[0] == pytest.approx(0, abs=0.05)
    assert noisy.shift[0] < -0.1
    assert noisy.variance[0] > 10 * exact.variance[0]


@pytest.mark.parametrize("rate", [0.2, 0.6, 0.95])
def test_the_prior_seed_deviation_is_a_point_at_every_score(rate: float) -> None:
    observed = observe(planted(np.random.default_rng(13), [rate] * 3, 3, 1000), share=True)
    assert observed.prior_seed_deviation / np.median(observed.scale_derivative) == pytest.approx(0.01, rel=0.02)
    losses = {"a": {0: np.array([2.0, 3.0]), 1: np.array([2.5, 2.5])}}
    assert observe(losses, share=False, higher_is_better=False).prior_seed_deviation == 0.01


@pytest.mark.parametrize("trials", [[], [Trial(0, np.ones(3))], [Trial(2, np.ones(3)), Trial(0, np.ones(3))]])
def test_too_few_trials_change_nothing(trials: list[Trial]) -> None:
    scores = planted(np.random.default_rng(8), [0.6, 0.7], 3, 200)
    assert fit(scores, share=True, tunings={"m0": Tuning(trials, 0)}).estimates == fit(scores, share=True).estimates


def test_runs_with_different_examples_are_an_error() -> None:
    with pytest.raises(ValueError, match="same test examples"):
        fit({"a": {0: np.ones(3)}, "b": {0: np.ones(4)}}, share=True)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_scores_are_not_an_error(value: float) -> None:
    same: Any = {name: {s: np.full(50, value) for s in range(2)} for name in ("a", "b")}
    for share in (True, False):
        posterior = fit(same, share=share, higher_is_better=share)
        assert all(np.isfinite([e.score, e.low, e.high]).all() for e in posterior.estimates.values())


def test_fifty_methods_take_less_than_five_seconds() -> None:
    scores = planted(np.random.default_rng(9), [0.6] * 50, 5, 2000)
    started = time.process_time()
    fit(scores, share=True).differences()
    assert time.process_time() - started < 5


def _width(posterior: Posterior, name: str) -> float:
    low, high = posterior.estimates[name].low, posterior.estimates[name].high
    assert low is not None
    assert high is not None
    return high - low


@pytest.mark.parametrize("share", [True, False])
def test_an_earlier_checkpoint_borrows_the_example_variance(share: bool) -> None:
    rng = np.random.default_rng(10)
    early, late = (planted(rng, [rate, rate + 0.02], 3, 500) for rate in (0.5, 0.8))
    if not share:
        early, late = ({n: {s: 2 - v for s, v in runs.items()} for n, runs in each.items()} for each in (early, late))
    means = {name: {seed: float(values.mean()) for seed, values in runs.items()} for name, runs in early.items()}
    direct = fit(early, share=share, higher_is_better=share)
    borrowed = fit(late, means=means, share=share, higher_is_better=share)
    assert borrowed.estimates["m0"].score == pytest.approx(direct.estimates["m0"].score, abs=0.01)
    assert _width(borrowed, "m0") == pytest.approx(_width(direct, "m0"), rel=0.35)


@pytest.mark.parametrize("examples", [[3.0, 3.0, 3.0], [3.0]])
def test_a_single_run_without_variance_has_no_interval(examples: list[float]) -> None:
    posterior = fit({"a": {4: np.array(examples)}}, share=False)
    assert posterior.estimates == {"a": MethodEstimate(3.0, None, None, None, 1)}
    assert posterior.draws.shape == (0, 0)


def test_draws_are_repeatable_without_a_seed() -> None:
    rng = np.random.default_rng(4)
    scores = {name: {seed: rng.random(30) for seed in range(3)} for name in "ab"}
    default, first, other = (fit(scores, share=True, **seed) for seed in ({}, {"seed": 0}, {"seed": 1}))
    assert np.array_equal(default.draws, first.draws)
    assert not np.array_equal(default.draws, other.draws)
