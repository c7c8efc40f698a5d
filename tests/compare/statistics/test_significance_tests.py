from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peftkit.compare.statistics.seed_variance import Array, SeedVariance, p_value
from peftkit.compare.statistics.significance_tests import (
    MAX_LETTERS,
    PairwiseResult,
    PairwiseTests,
    _bootstrap_means,
    _letter,
    _merge_groups,
    compact_letters,
    compare_scores,
    holm,
    mcnemar,
    standard_error,
)


def planted(
    rng: np.random.Generator, rates: list[float], seeds: int, examples: int, noise: float
) -> dict[str, dict[int, Array]]:
    """Runs whose rate of right answers varies by seed, on examples that are easy or hard for all."""
    hard = rng.normal(0, 0.15, examples)
    runs: dict[str, dict[int, Array]] = {}
    for number, rate in enumerate(rates):
        run_rates = [rate + rng.normal(0, noise) for _ in range(seeds)]
        right = [(rng.random(examples) < np.clip(r + hard, 0, 1)).astype(float) for r in run_rates]
        runs[f"m{number}"] = dict(enumerate(right))
    return runs


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "noise"), [(1, 0.0), (3, 0.02), (5, 0.01)])
def test_equal_methods_are_separated_at_most_one_time_in_twenty(seeds: int, noise: float) -> None:
    rng = np.random.default_rng(7)
    apart = sum(
        compare_scores(planted(rng, [0.6, 0.6], seeds, 400, noise), draws=1000, seed=i).differences[0].p < 0.05
        for i in range(200)
    )
    assert apart <= 10 + 2.33 * (200 * 0.05 * 0.95) ** 0.5  # the 99 % quantile under the null hypothesis


def test_real_differences_are_significant() -> None:
    rng = np.random.default_rng(3)
    results = [compare_scores(planted(rng, [0.7, 0.6], 5, 1000, 0.005), draws=1000, seed=i) for i in range(40)]
    assert sum(v.differences[0].p_adjusted < 0.05 for v in results) >= 36
    assert sum(v.letters == {"m0": "a", "m1": "b"} for v in results) >= 36


def test_ten_thousand_examples_need_bounded_memory() -> None:
    rng = np.random.default_rng(0)
    scores = {f"m{i}": {s: (rng.random(10_000) < 0.6).astype(float) for s in range(2)} for i in range(10)}
    verdict = compare_scores(scores)
    assert len(verdict.differences) == 45


def test_runs_with_different_examples_are_an_error() -> None:
    with pytest.raises(ValueError, match="same test examples"):
        compare_scores({"a": {0: np.ones(3)}, "b": {0: np.ones(4)}})


def test_holm_adjusts_p_values_step_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.integers(1, 6), st.data())
def test_methods_share_a_letter_unless_they_differ(number: int, data: st.DataObject) -> None:
    names = [f"m{i}" for i in range(number)]
    pairs = [*combinations(names, 2)]
    apart = set(data.draw(st.lists(st.sampled_from(pairs), unique=True))) if pairs else set()
    letters = compact_letters([float(-i) for i in range(number)], names, apart)
    for pair in pairs:
        assert (not set(letters[pair[0]]) & set(letters[pair[1]])) == (pair in apart)
    assert letters["m0"].startswith("a")


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(2, 30), st.floats(0, 1), st.randoms())
def test_many_methods_have_few_letters_and_no_false_separation(number: int, share: float, rng: random.Random) -> None:
    names = [f"m{i}" for i in range(number)]
    apart = {pair for pair in combinations(names, 2) if rng.random() < share / 4}
    letters = compact_letters([float(-i) for i in range(number)], names, apart)
    assert len(set("".join(letters.values()))) <= MAX_LETTERS
    assert all(set(letters[a]) & set(letters[b]) for a, b in combinations(names, 2) if (a, b) not in apart)


def test_significant_pairs_that_share_a_letter_are_counted() -> None:
    rng = np.random.default_rng(4)
    verdict = compare_scores(planted(rng, [0.3 + 0.01 * i for i in range(45)], 3, 500, 0.005), draws=200)
    shared = [d for d in verdict.differences if {*verdict.letters[d.first]} & {*verdict.letters[d.second]}]
    assert verdict.joined == sum(d.p_adjusted < 0.05 for d in shared) > 0


def test_mcnemar_counts_examples_that_only_one_method_has_right() -> None:
    first, second = np.array([1.0] * 9 + [0.0] * 11), np.array([0.0] * 8 + [1.0] * 2 + [0.0] * 10)
    # The first alone has 8 right, the second alone 1: twice the chance of 8 or more heads of 9.
    assert mcnemar(first, second) == pytest.approx(2 * 10 / 512)
    assert mcnemar(first, first) == 1.0
    result = compare_scores({"a": {0: first}, "b": {0: second}}).differences[0]
    assert result.p == mcnemar(first, second)


@pytest.mark.slow
@pytest.mark.parametrize(("methods", "seeds"), [(2, 3), (10, 2), (30, 3)])
def test_the_family_wise_error_rate_is_controlled(methods: int, seeds: int) -> None:
    """Counts tables with any significant pair of equal methods; noise differs between tables."""
    rng = np.random.default_rng(methods)
    number, wrong = 1200 // methods**2 + 20, 0
    for i in range(number):
        noise = float(rng.choice([0.005, 0.02, 0.05]))
        verdict = compare_scores(planted(rng, [0.6] * methods, seeds, 250, noise), draws=200, seed=i)
        wrong += any(d.p_adjusted < 0.05 for d in verdict.differences)
    assert wrong <= 0.05 * number + 2.33 * (0.05 * 0.95 * number) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("methods", "seeds"), [(2, 1), (2, 3), (10, 3)])
def test_detectable_differences_are_detected_with_the_stated_power(methods: int, seeds: int) -> None:
    rng = np.random.default_rng(methods + seeds)
    tables = [compare_scores(planted(rng, [0.5] * methods, seeds, 250, 0.02), draws=200) for _ in range(20)]
    detectable = float(np.median([d.detectable for verdict in tables for d in verdict.differences]))
    detected = []
    for _ in range(60):
        verdict = compare_scores(planted(rng, [0.5] * (methods - 1) + [0.5 + detectable], seeds, 250, 0.02), draws=200)
        detected += [d.p_adjusted < 0.05 for d in verdict.differences if d.second == f"m{methods - 1}"]
    assert 0.65 < np.mean(detected) < 0.97


def test_differing_pairs_of_many_methods_are_significant() -> None:
    rng = np.random.default_rng(1)
    rates = [0.3 + 0.5 * i / 39 for i in range(40)]
    verdict = compare_scores(planted(rng, rates, 3, 500, 0.01), draws=500)
    far = [d for d in verdict.differences if abs(rates[int(d.first[1:])] - rates[int(d.second[1:])]) > 0.15]
    assert np.mean([d.p_adjusted < 0.05 for d in far]) > 0.95
    assert not set(verdict.letters["m0"]) & set(verdict.letters["m39"])


def grouped(rng: np.random.Generator, groups: int, size: int, rates: list[float]) -> tuple[Any, list[str]]:
    """Scores of methods whose groups are right or wrong as a whole, and the group of each example."""
    scores = {f"m{i}": {0: np.repeat((rng.random(groups) < r).astype(float), size)} for i, r in enumerate(rates)}
    return scores, [f"g{i // size}" for i in range(groups * size)]


def test_tests_resample_groups_not_examples() -> None:
    rng = np.random.default_rng(1)
    rounds, significant = 60, 0
    for i in range(rounds):
        scores, groups = grouped(rng, 60, 10, [0.6, 0.6])
        significant += compare_scores(scores, groups=groups, draws=500, seed=i).differences[0].p < 0.05
    assert significant / rounds <= 0.15
    scores, groups = grouped(rng, 400, 10, [0.8, 0.5])
    assert compare_scores(scores, groups=groups, draws=500).differences[0].p < 0.05


@pytest.mark.parametrize("groups", [[""] * 200, [f"{i}" for i in range(200)]])
def test_groups_of_one_change_nothing(groups: list[str]) -> None:
    scores = planted(np.random.default_rng(2), [0.6, 0.5], 1, 200, 0.0)
    assert compare_scores(scores, groups=groups, draws=500) == compare_scores(scores, draws=500)


def test_standard_error_over_groups_is_that_of_their_means() -> None:
    scores, groups = grouped(np.random.default_rng(3), 50, 4, [0.5])
    values = scores["m0"][0]
    assert standard_error(values, groups) == pytest.approx(values[::4].std(ddof=1) / np.sqrt(50))
    assert standard_error(values, None) == pytest.approx(values.std(ddof=1) / np.sqrt(200))
    assert standard_error(np.ones(1), None) == 0.0


def test_tests_include_the_uncertainty_of_tuning() -> None:
    scores = planted(np.random.default_rng(11), [0.6, 0.65], 5, 2000, 0.002)
    [plain] = compare_scores(scores).differences
    [doubtful] = compare_scores(scores, choices={"m0": (0.0, 0.03**2)}).differences
    [shifted] = compare_scores(scores, choices={"m1": (-0.05, 0.0)}).differences
    assert plain.p < 0.05 < doubtful.p
    assert shifted.mean == pytest.approx(plain.mean + 0.05)
    assert shifted.p > 0.05


def test_draws_are_repeatable_without_a_seed() -> None:
    rng = np.random.default_rng(4)
    scores = {name: {seed: rng.random(30) for seed in range(3)} for name in "ab"}
    assert compare_scores(scores) == compare_scores(scores, seed=0) != compare_scores(scores, seed=1)


def test_variances_of_methods_with_different_seeds_are_summed() -> None:
    rng = np.random.default_rng(3)
    scores = {
        "a": {seed: rng.random(200) + 0.1 * seed for seed in (1, 2, 3)},
        "b": {seed: rng.random(200) + 0.2 * seed for seed in (4, 5)},
        "one": {9: rng.random(200)},
    }
    seed_means = {name: np.array([values.mean() for values in runs.values()]) for name, runs in scores.items()}
    variances = {name: each.var(ddof=1) / len(each) if len(each) > 1 else 0.0 for name, each in seed_means.items()}
    means = {name: np.mean([*runs.values()], axis=0) for name, runs in scores.items()}
    differences = {(d.first, d.second): d for d in compare_scores(scores, draws=40_000).differences}
    for (first, second), freedom in {("a", "b"): 1, ("a", "one"): 2, ("b", "one"): 1}.items():
        error = np.sqrt((means[first] - means[second]).var() / 200)
        difference = means[first].mean() - means[second].mean()
        expected = p_value(difference, error, SeedVariance(variances[first] + variances[second], freedom))
        assert differences[first, second].mean == pytest.approx(difference)
        assert differences[first, second].p == pytest.approx(expected, rel=0.05)


def test_single_numbers_are_not_tested() -> None:
    result = compare_scores({"a": {0: np.array([0.9])}, "b": {0: np.array([0.1])}})
    assert result.differences == (PairwiseResult("a", "b", pytest.approx(0.8), 1.0, 1.0, None),)
    assert result.letters == {"a": "a", "b": "a"}
    several = compare_scores({"a": {0: np.array([0.9])}, "b": {0: np.array([0.1]), 1: np.array([0.2])}})
    assert [(d.p, d.detectable) for d in several.differences] == [(1.0, None)]


def test_bootstrapped_means_have_the_moments_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((2, 60))
    drawn = np.concatenate([*_bootstrap_means(scores, None, 20_750, rng)])
    assert drawn.shape == (20_750, 2)
    assert drawn.mean(0) == pytest.approx(scores.mean(1), abs=0.002)
    assert np.cov(drawn.T) == pytest.approx(np.cov(scores, ddof=0) / 60, rel=0.1, abs=5e-5)
    members = np.arange(60) // 6
    drawn = np.concatenate([*_bootstrap_means(scores, members, 20_000, rng)])
    sums = (scores - scores.mean(1, keepdims=True)).reshape(2, 10, 6).sum(2)
    # A ratio of sums over 10 groups varies by a tenth more than its linear part.
    assert drawn.var(0) == pytest.approx((sums**2).sum(1) / 60**2, rel=0.35)
    assert drawn.var(0) == pytest.approx((sums**2).sum(1) / 60**2 * 1.15, rel=0.12)


def test_bootstrapped_means_of_unequal_groups_weight_examples_equally() -> None:
    scores, members = np.array([[1.0, 0.0, 0.0, 0.0]]), np.array([0, 1, 1, 1])
    drawn = np.concatenate([*_bootstrap_means(scores, members, 2000, np.random.default_rng(0))])
    assert np.isfinite(drawn).all(), "all weights can be zero"
    assert {0.0, 0.25, 1.0} < set(drawn.ravel().tolist())
    assert np.median(drawn) == pytest.approx(0.25)


def test_letters_go_on_after_z() -> None:
    assert [_letter(number) for number in (0, 25, 26, 53)] == ["a", "z", "aa", "bbb"]


def test_groups_that_separate_the_fewest_pairs_are_merged() -> None:
    """Groups 0 1, 1 2 and 3; methods 0 and 2 are separated, and 3 from all."""
    separated = [0b1100, 0b1000, 0b1001, 0b0111]
    assert _merge_groups({0b0011, 0b0110, 0b1000}, separated, 2) == {0b0111, 0b1000}
    assert _merge_groups({0b0011, 0b0110, 0b1000}, separated, 3) == {0b0011, 0b0110, 0b1000}
    assert _merge_groups({0b0011, 0b0110, 0b1000}, separated, 1) == {0b1111}


def test_letters_follow_the_order_of_means() -> None:
    separated = {("low", "high"), ("low", "middle")}
    assert compact_letters([0.1, 0.9, 0.5], ["low", "high", "middle"], separated) == {
        "high": "a",
        "middle": "a",
        "low": "b",
    }
    overlapping = {("a", "c"), ("d", "a"), ("d", "b")}
    assert compact_letters([4.0, 3.0, 2.0, 1.0], ["a", "b", "c", "d"], overlapping) == {
        "a": "a",
        "b": "ab",
        "c": "bc",
        "d": "c",
    }


def test_adjusted_p_values_separate_methods_and_set_the_detectable_difference() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3, 400))
    scores = {name: {0: level + each} for name, level, each in zip("abc", (0.0, 0.02, 0.5), noise, strict=True)}
    tests = compare_scores(scores, draws=20_000)
    assert [(each.first, each.second) for each in tests.differences] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [each.p_adjusted for each in tests.differences] == holm([each.p for each in tests.differences])
    assert [each.p_adjusted < 0.05 for each in tests.differences] == [False, True, True]
    assert tests.letters == {"a": "b", "b": "b", "c": "a"}
    assert tests.joined == 0
    for each, competing in zip(tests.differences, (1, 2, 2), strict=True):
        difference = scores[each.first][0] - scores[each.second][0]
        error = difference.std() / 20
        assert each.mean == pytest.approx(difference.mean())
        assert each.p == pytest.approx(2 * stats.norm.sf(abs(each.mean) / error), rel=0.25)
        expected = (stats.norm.isf(0.025 / competing) + stats.norm.ppf(0.8)) * error
        assert each.detectable == pytest.approx(expected, rel=0.03)
    quick = compare_scores(scores, draws=20_000, power=False)
    assert [each.detectable for each in quick.differences] == [None] * 3
    assert [each.p for each in quick.differences] == [each.p for each in tests.differences]


def test_effects_of_choosing_settings_shift_and_widen_both_methods() -> None:
    rng = np.random.default_rng(1)
    scores = {name: {0: rng.standard_normal(400)} for name in "ab"}
    [plain] = compare_scores(scores, draws=20_000).differences
    [both] = compare_scores(scores, draws=20_000, choices={"a": (0.3, 0.01), "b": (0.1, 0.02)}).differences
    difference = scores["a"][0] - scores["b"][0]
    error = np.sqrt(difference.var() / 400 + 0.03)
    assert both.mean == pytest.approx(plain.mean + 0.2)
    assert both.p == pytest.approx(2 * stats.norm.sf(abs(both.mean) / error), rel=0.02)
    assert both.detectable == pytest.approx((1.959964 + 0.8416212) * error, rel=0.02)


def test_seeds_are_paired_where_both_methods_have_the_same() -> None:
    """The mean over seeds varies little between the methods, but much between seeds."""
    rng = np.random.default_rng(2)
    common = {seed: rng.standard_normal(300) + 5 * seed for seed in range(3)}
    scores = {
        "a": common,
        "b": {seed: values + 0.1 * seed + rng.standard_normal(300) for seed, values in common.items()},
    }
    [paired] = compare_scores(scores, draws=20_000).differences
    means = np.array([scores["a"][seed].mean() - scores["b"][seed].mean() for seed in range(3)])
    over = np.mean([scores["a"][seed] - scores["b"][seed] for seed in range(3)], axis=0).std() / np.sqrt(300)
    expected = p_value(float(means.mean()), float(over), SeedVariance(float(means.var(ddof=1) / 3), 2))
    assert paired.p == pytest.approx(expected, rel=0.05)
    shifted = {**scores, "b": {seed + 1: values for seed, values in scores["b"].items()}}
    assert compare_scores(shifted, draws=2000).differences[0].p > 0.5, "unpaired, seeds vary by ten"


def test_the_exact_test_needs_binary_scores_of_single_seeds() -> None:
    first, second = np.array([1.0] * 9 + [0.0] * 11), np.array([0.0] * 8 + [1.0] * 2 + [0.0] * 10)
    exact = mcnemar(first, second)
    assert compare_scores({"a": {0: first}, "b": {0: second}}).differences[0].p == exact
    halves = {"a": {0: first / 2}, "b": {0: second / 2}}
    assert compare_scores(halves).differences[0].p == pytest.approx(
        2 * stats.norm.sf(abs((first - second).mean()) / ((first - second).std() / np.sqrt(20))), rel=0.5
    )
    for scores in (halves, {"a": {0: first}, "b": {0: second / 2}}, {"a": {0: first}, "b": {0: second, 1: first}}):
        assert compare_scores(scores).differences[0].p != exact
    groups = [f"g{i // 2}" for i in range(20)]
    assert compare_scores({"a": {0: first}, "b": {0: second}}, groups=groups).differences[0].p != exact


def test_no_methods_have_no_differences() -> None:
    assert compare_scores({}) == PairwiseTests((), {}, 0)
    assert compare_scores({"a": {0: np.ones(3)}}) == PairwiseTests((), {"a": "a"}, 0)


def test_a_single_group_has_no_standard_error() -> None:
    assert standard_error(np.array([0.0, 1.0]), ["g", "g"]) == 0.0
    assert standard_error(np.array([0.0, 1.0]), None) == pytest.approx(0.5)
