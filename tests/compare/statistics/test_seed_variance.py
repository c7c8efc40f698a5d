from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special, stats

from peftkit.compare.statistics.seed_variance import (
    SeedVariance,
    _estimate_ratios,
    _prior,
    _smallest_value,
    _trigamma_inverse,
    _variance_ratios,
    detectable_differences,
    moderated_variances,
    p_value,
)


def test_few_methods_have_unmoderated_variances() -> None:
    values = [np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.5, 0.5]), np.array([0.7])]
    assert moderated_variances(values, 3) == [
        SeedVariance(pytest.approx(0.01 / 3), 2.0),
        SeedVariance(0.0, 2.0),
        SeedVariance(0.0, 0.0),
    ]


def test_variances_of_many_methods_are_moderated_and_never_reduced() -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(0.5, 0.01, 3) for _ in range(40)] + [np.full(3, 0.5), np.array([0.4])]
    values.append(np.array([0.1, 0.5, 0.9]))  # an unstable one
    moderated = moderated_variances(values, len(values))
    assert all(
        spread.variance >= each.var(ddof=1) / 3 for spread, each in zip(moderated[:40], values[:40], strict=True)
    )
    assert moderated[40].variance > 0  # three equal seeds are a coincidence among others that vary
    assert (moderated[41].variance > 0, moderated[41].degrees_of_freedom > 0) == (
        True,
        True,
    )  # a method with one seed gets the variance of the others
    assert moderated[42].variance == pytest.approx(values[42].var(ddof=1) / 3)
    assert all(2 < spread.degrees_of_freedom <= 2 + min(43 / 4, 6) for spread in moderated[:41])
    assert np.median([s.variance for s in moderated[:40]]) == pytest.approx(1e-4 / 3, rel=0.6)


def test_the_prior_of_simulated_variances_is_recovered() -> None:
    rng = np.random.default_rng(2)
    true = 4 * 2.5 / rng.chisquare(4, 20_000)
    seen = true * rng.chisquare(3, 20_000) / 3
    variance, counts = _prior([(float(each), 3) for each in seen])
    assert variance == pytest.approx(2.5, rel=0.05)
    assert counts == pytest.approx(4, rel=0.1)


def test_p_values_of_student_normal_and_their_sum() -> None:
    assert p_value(0.3, 0.0, SeedVariance(0.01, 2)) == pytest.approx(2 * stats.t.sf(3.0, 2), rel=0.02)
    assert p_value(-0.3, 0.1, SeedVariance(0.0, 0)) == pytest.approx(2 * stats.norm.sf(3.0))
    assert (p_value(0.0, 0.1, SeedVariance(0.01, 2)), p_value(0.1, 0.0, SeedVariance(0.0, 2))) == (1.0, 1.0)
    rng = np.random.default_rng(0)
    drawn = 0.1 * rng.standard_normal(1_000_000) + 0.1 * rng.standard_t(4, 1_000_000)
    for difference in (0.1, 0.3, 0.8):
        assert p_value(difference, 0.1, SeedVariance(0.01, 4)) == pytest.approx(
            (abs(drawn) > difference).mean(), rel=0.05
        )


@pytest.mark.parametrize("freedom", [1.0, 2.0, 10.0])
def test_detectable_differences_have_the_stated_power(freedom: float) -> None:
    """About four in five other runs of two such methods distinguish them."""
    rng = np.random.default_rng(1)
    errors, variance, level = 0.02, 1e-4, 0.05
    [detectable] = detectable_differences(np.array([errors]), [SeedVariance(variance, freedom)], np.array([level]))
    detected = []
    for _ in range(400):
        true = variance * freedom / rng.chisquare(freedom)
        estimated = SeedVariance(true * rng.chisquare(freedom) / freedom, freedom)
        detected.append(p_value(detectable + rng.normal(0, np.sqrt(errors**2 + true)), errors, estimated) < level)
    assert 0.7 < np.mean(detected) < 0.9


def test_no_variance_gives_no_detectable_difference() -> None:
    detectable = detectable_differences(
        np.array([0.0, 0.02]), [SeedVariance(0, 0), SeedVariance(0, 0)], np.array([0.05, 0.05])
    )
    assert np.isnan(detectable[0])
    assert detectable[1] == pytest.approx((1.96 + 0.8416) * 0.02, rel=1e-3)


FIVE = [np.array(seeds) for seeds in ([0.1, 0.2], [0.3, 0.5], [0.4, 0.7], [0.5, 0.9], [0.6, 1.1])]


@pytest.mark.parametrize(
    ("values", "methods", "borrows"),
    [
        (FIVE, 5, True),
        (FIVE, 4, False),
        (FIVE[:4], 5, False),
        ([*FIVE[:4], np.array([0.7])], 5, False),
        ([*FIVE, np.array([0.7])], 6, True),
    ],
)
def test_variances_are_moderated_from_five_methods_on(values: list[np.ndarray], methods: int, borrows: bool) -> None:
    freedoms = [len(each) - 1 for each in values]
    assert [
        spread.degrees_of_freedom > freedom
        for spread, freedom in zip(moderated_variances(values, methods), freedoms, strict=True)
    ] == [borrows] * len(values)


def test_a_moderated_variance_is_weighted_by_degrees_of_freedom() -> None:
    values = [*FIVE, np.array([0.2, 0.25, 0.3, 0.21, 0.22]), np.array([0.7])]
    variances = [float(each.var(ddof=1)) if len(each) > 1 else 0.0 for each in values]
    before, counts = _prior(
        [(variance, len(v) - 1) for variance, v in zip(variances, values, strict=True) if len(v) > 1]
    )
    for methods in (7, 16, 100):
        for spread, each, variance in zip(moderated_variances(values, methods), values, variances, strict=True):
            freedom = len(each) - 1
            weight = min(counts, methods / 4, 3 * max(1, freedom))
            moderated = (weight * before + freedom * variance) / (weight + freedom)
            assert spread.variance == pytest.approx(max(variance, moderated) / len(each))
            assert spread.degrees_of_freedom == pytest.approx(freedom + weight)


@pytest.mark.parametrize("freedoms", [(2, 2, 2, 2, 2), (1, 2, 3, 4, 9)])
def test_the_prior_matches_the_moments_of_log_variances(freedoms: tuple[int, ...]) -> None:
    variances, degrees = np.array([1e-4, 2.0, 3.0, 40.0, 9.0]), np.array(freedoms)
    logs = np.log(variances.clip(min=1e-3 * 3.0)) + np.log(degrees / 2) - special.digamma(degrees / 2)
    excess = logs.var(ddof=1) - special.polygamma(1, degrees / 2).mean()
    half = optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-3, 1e3, xtol=1e-14)
    variance, counts = _prior(list(zip(variances.tolist(), freedoms, strict=True)))
    assert counts == pytest.approx(2 * half, rel=1e-8)
    assert variance == pytest.approx(np.exp(logs.mean() + special.digamma(half) - np.log(half)), rel=1e-8)


def test_variances_that_differ_by_chance_share_one_prior() -> None:
    variance, counts = _prior([(4.0, 2)] * 5)
    assert counts == np.inf
    assert variance == pytest.approx(4.0 * np.exp(-special.digamma(1.0)))
    assert _prior([(0.0, 2)] * 3 + [(1.0, 2)] * 2) == (0.0, 0.0), "most do not vary at all"


@pytest.mark.parametrize("value", [1e-4, 0.1, 1.0, 1.6449340668482264, 40.0, 1e6])
def test_the_inverse_of_the_trigamma_function(value: float) -> None:
    assert special.polygamma(1, _trigamma_inverse(value)) == pytest.approx(value, rel=1e-9)
    assert _trigamma_inverse(np.pi**2 / 6) == pytest.approx(1.0, rel=1e-12)


def test_p_values_are_accurate_in_the_far_tails() -> None:
    for freedom in (1, 2, 4.5, 30):
        for size in (0.5, 3.0, 20.0, 100.0):
            expected = 2 * stats.t.sf(size, freedom)
            if expected > 1e-9:
                assert p_value(-size, 0.0, SeedVariance(1.0, freedom)) == pytest.approx(expected, rel=0.03)
    # The error over examples adds to that over seeds; without degrees of freedom, its variance is known.
    assert p_value(3.0, 0.6, SeedVariance(0.64, 0)) == pytest.approx(2 * stats.norm.sf(3.0))
    assert p_value(1e-9, 1.0, SeedVariance(1.0, 2)) == pytest.approx(1.0)


def test_variance_ratios_have_the_distribution_of_the_inverse_chi_square() -> None:
    assert _variance_ratios(0.0).tolist() == [1.0] * len(_variance_ratios(0.0))
    assert _estimate_ratios(0.0).tolist() == [1.0, 1.0, 1.0]
    assert _estimate_ratios(4.0) == pytest.approx(stats.chi2.ppf([1 / 6, 1 / 2, 5 / 6], 4) / 4)
    assert np.median(_variance_ratios(4.0)) > 4 / stats.chi2.ppf(1e-3, 4), "the grid is finest at large variances"
    assert _variance_ratios(4.0).min() == pytest.approx(4 / stats.chi2.ppf(1, 4) + 4 / stats.chi2.ppf(1 - 5e-5, 4))


def test_the_smallest_value_of_a_monotone_condition() -> None:
    limits = np.array([0.02, 3.7, 800.0])
    smallest = _smallest_value(lambda values: values >= limits, np.full(3, 1e-3), np.full(3, 1e3))
    assert smallest == pytest.approx(limits, rel=1e-6)
    assert (smallest >= limits).all()


@pytest.mark.parametrize(("error", "variance", "freedom", "level"), [(0.02, 1e-4, 3.0, 0.05), (0.01, 4e-3, 9.0, 0.01)])
def test_detectable_differences_equal_a_root_search(
    error: float, variance: float, freedom: float, level: float
) -> None:
    """The true variance and its estimate in other runs are integrated over three quantiles each."""
    ratios = stats.chi2.ppf([1 / 6, 1 / 2, 5 / 6], freedom) / freedom
    cells = []
    for true in variance / ratios:
        for estimate in true * ratios:
            seeds = SeedVariance(float(estimate), freedom)
            needed = optimize.brentq(lambda d, s=seeds: p_value(d, error, s) - level, 1e-4, 10.0, xtol=1e-12)
            cells.append((needed, np.sqrt(error**2 + true)))
    expected = optimize.brentq(lambda d: np.mean([stats.norm.sf((n - d) / e) for n, e in cells]) - 0.8, 1e-4, 10.0)
    detectable = detectable_differences(
        np.array([error, 0.05]), [SeedVariance(variance, freedom), SeedVariance(0.0, 0.0)], np.array([level, 0.05])
    )
    assert detectable[0] == pytest.approx(expected, rel=1e-5)
    assert detectable[1] == pytest.approx((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * 0.05, rel=1e-4)


def test_values_of_single_runs_have_no_variance() -> None:
    [alone] = moderated_variances([np.array([0.7])], 1)
    assert alone == SeedVariance(0.0, 0)
    assert moderated_variances([], 0) == []


def test_nearly_constant_seeds_count_as_a_thousandth_of_the_median() -> None:
    varied = [(value, 2) for value in (1.0, 2.0, 3.0, 5.0)]
    floor = 1e-3 * 2.0  # of the median, 2
    assert _prior([*varied, (0.0, 2)]) == pytest.approx(_prior([*varied, (floor, 2)]))
    assert _prior([*varied, (0.0, 2)]) == pytest.approx(_prior([*varied, (floor / 50, 2)]))
    assert _prior([*varied, (0.0, 2)]) != pytest.approx(_prior([*varied, (2 * floor, 2)]))
