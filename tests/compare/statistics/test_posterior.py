"""The posterior of methods' scores, on planted truths."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.compare.power_analysis import Plan
from peftkit.compare.statistics import Posterior, TrialScores, Tuning, fit
from peftkit.compare.statistics import posterior as posterior_module
from peftkit.compare.statistics.hierarchy import ChoiceEffect, SamplingEffort
from peftkit.compare.statistics.observations import Array, Observations, Scale, _ExampleVariances, observe
from peftkit.compare.statistics.posterior import MethodEstimate, PairDifference
from peftkit.compare.statistics.seed_variance import SeedVariance
from peftkit.compare.statistics.significance_tests import PairwiseResult, PairwiseTests
from tests.compare.conftest import HALF_EFFORT

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


@pytest.mark.slow
def test_the_highest_of_many_equal_methods_is_shrunk() -> None:
    rng = np.random.default_rng(1)
    gaps, observed = [], []
    for _ in range(20):
        scores = planted(rng, [0.6] * 30, 2, 200, 0.02)
        posterior = fit(scores, share=True, effort=HALF_EFFORT)
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
        each = fit(scores, share=True, effort=HALF_EFFORT).estimates["a"]
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

    return Tuning([TrialScores(k, answers(rate), answers(rate)) for k, rate in enumerate(rates)], chosen)


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


@pytest.mark.parametrize("rate", [0.2, 0.6, 0.95])
def test_the_prior_seed_deviation_is_a_point_at_every_score(rate: float) -> None:
    observed = observe(planted(np.random.default_rng(13), [rate] * 3, 3, 1000), share=True)
    assert observed.prior_seed_deviation / np.median(observed.scale_derivative) == pytest.approx(0.01, rel=0.02)
    losses = {"a": {0: np.array([2.0, 3.0]), 1: np.array([2.5, 2.5])}}
    assert observe(losses, share=False, higher_is_better=False).prior_seed_deviation == 0.01


@pytest.mark.parametrize(
    "trials", [[], [TrialScores(0, np.ones(3))], [TrialScores(2, np.ones(3)), TrialScores(0, np.ones(3))]]
)
def test_too_few_trials_change_nothing(trials: list[TrialScores]) -> None:
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


def drawn(*rows: list[float], higher_is_better: bool = True) -> Posterior:
    return Posterior({}, ("a", "b", "c")[: len(rows[0])], np.array(rows), {}, higher_is_better)


@pytest.mark.parametrize("higher", [True, False])
def test_differences_are_counted_over_draws(higher: bool) -> None:
    sign = 1.0 if higher else -1.0
    second = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    posterior = drawn(*[[sign * 2.0, sign * value, 7.0] for value in second], higher_is_better=higher)
    difference = posterior.difference("a", "b")
    assert (difference.first, difference.second, difference.mean) == ("a", "b", 0.0)
    assert (difference.low, difference.high) == (pytest.approx(-1.9), pytest.approx(1.9))
    assert difference.better == 2 / 5, "an equal draw is not better"
    assert posterior.difference("b", "a").better == 2 / 5
    assert [(each.first, each.second) for each in posterior.differences()] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [each.mean for each in posterior.differences()] == [0.0, sign * (sign * 2 - 7), sign * (sign * 2 - 7)]
    assert posterior.equivalent("a", "b", 1.0) == 1 / 5
    assert posterior.equivalent("a", "b", 1.5) == 3 / 5
    assert posterior.not_inferior("a", "b", 1.0) == 3 / 5, "a margin worse is inferior"
    assert posterior.not_inferior("a", "b", 0.5) == 3 / 5
    assert posterior.not_inferior("b", "a", 1.5) == 4 / 5
    both = Posterior({}, ("a", "b"), posterior.draws[:, :2], {}, higher)
    assert both.within_margin_of_best(1.0) == {"a": 4 / 5, "b": 4 / 5}
    assert both.within_margin_of_best(0.0) == {"a": 3 / 5, "b": 3 / 5}


@pytest.mark.parametrize("higher", [True, False])
def test_the_interval_of_a_single_run_is_normal_on_the_models_scale(higher: bool) -> None:
    [alone] = fit({"a": {3: np.array([0.9])}}, share=True, higher_is_better=higher, rows=50).estimates.values()
    centre, deviation = np.arcsin(np.sqrt((45 + 3 / 8) / (50 + 3 / 4))), np.sqrt(1 / 200)
    ends = np.sin(centre + 1.959964 * deviation * np.array([-1, 1])) ** 2
    assert (alone.score, alone.best, alone.seeds) == (0.9, None, 1)
    assert (alone.low, alone.high) == (pytest.approx(ends[0]), pytest.approx(ends[1]))
    [losses] = fit({"a": {3: np.array([1.0, 3.0])}}, share=False, higher_is_better=False).estimates.values()
    assert (losses.low, losses.high) == (
        pytest.approx(2 * np.exp(-1.959964 / 2)),
        pytest.approx(2 * np.exp(1.959964 / 2)),
    )


@pytest.mark.parametrize(("score", "rows"), [(1.0, 3), (0.0, 3)])
def test_the_interval_of_a_single_run_includes_its_score(score: float, rows: int) -> None:
    [alone] = fit({"a": {0: np.array([score])}}, share=True, rows=rows).estimates.values()
    assert alone.low is not None
    assert alone.high is not None
    assert alone.low <= score <= alone.high


@pytest.mark.parametrize(("share", "higher"), [(True, True), (False, True), (False, False)])
def test_effects_of_choosing_settings_are_in_scores(share: bool, higher: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def planned(observed: Observations, tunings: Any, rng: Any) -> ChoiceEffect:
        given.append((observed, tunings))
        return ChoiceEffect(np.array([-0.1, 0.02]), np.array([0.5, 1.0]), np.array([0.04, 0.01]))

    monkeypatch.setattr(posterior_module, "estimate_choice_effect", planned)
    scores = planted(np.random.default_rng(0), [0.6, 0.8], 3, 200)
    tunings = {"m0": Tuning([], 0)}
    posterior = fit(scores, share=share, higher_is_better=higher, tunings=tunings)
    [(observed, passed)] = given
    slopes = np.abs(observed.scale_derivative)
    assert passed == tunings
    assert posterior.choice_effects == {
        "m0": (pytest.approx(-0.1 / slopes[0]), pytest.approx(0.04 / slopes[0] ** 2)),
        "m1": (pytest.approx(0.02 / slopes[1]), pytest.approx(0.01 / slopes[1] ** 2)),
    }
    assert posterior.names == ("m0", "m1")
    assert posterior.higher_is_better == higher


def test_the_effort_and_the_number_of_examples_reach_the_sampler() -> None:
    scores = {name: {seed: np.array([value]) for seed in range(3)} for name, value in (("a", 0.5), ("b", 0.6))}
    effort = SamplingEffort(chains=2, warm_up_states=1, kept_states=3, draws_per_state=5)
    few, many = (fit(scores, share=True, rows=rows, effort=effort) for rows in (20, 2_000_000))
    assert few.draws.shape == many.draws.shape == (30, 2)
    assert few.draws.std() > 2 * many.draws.std()
    best = {name: each.best for name, each in few.estimates.items()}
    assert best == {"a": (few.draws[:, 0] > few.draws[:, 1]).mean(), "b": (few.draws[:, 1] > few.draws[:, 0]).mean()}
    assert {name: each.seeds for name, each in few.estimates.items()} == {"a": 3, "b": 3}
    for place, each in enumerate(few.estimates.values()):
        assert each.score == few.draws[:, place].mean()
        assert [each.low, each.high] == np.quantile(few.draws[:, place], [0.025, 0.975]).tolist()


@pytest.mark.parametrize(
    "kind",
    [
        *(
            MethodEstimate,
            PairDifference,
            Posterior,
            TrialScores,
            Tuning,
            Observations,
            Scale,
            ChoiceEffect,
            SamplingEffort,
        ),
        *(_ExampleVariances, PairwiseResult, PairwiseTests, SeedVariance, Plan),
    ],
)
def test_results_are_frozen(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen
