"""Estimates the variance between few seeds, and how likely a difference is by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from peftkit.compare.statistics.observations import Array

Bools = NDArray[np.bool_]

POWER = 0.8
"""The probability with which a detectable difference is detected."""
MIN_VARIANCES = 5
"""The fewest methods and variances from which a prior is fitted."""
MIN_RELATIVE_VARIANCE = 1e-3
"""The least value of a variance in the prior's logarithms, relative to the median."""


@dataclass(frozen=True)
class SeedVariance:
    """The variance of a mean over seeds, and its degrees of freedom. Both are 0 for a single seed."""

    variance: float
    degrees_of_freedom: float


def moderated_variances(values: Sequence[Array], methods: int) -> list[SeedVariance]:
    """Estimate variances of means over seeds by empirical Bayes.

    The variance of a few seeds is uncertain, so each is moderated towards a prior that is fitted to all (Smyth, 2004).
    This assumes that the variances come from one distribution, which an unstable method among stable ones violates.
    Therefore the prior's degrees of freedom are at most three times those of a method's own seeds and a quarter of the
    number of methods, no variance is reduced, and fewer than five methods are not moderated.
    ``scripts/benchmarks/benchmark_compare.py --errors`` measures how often equal methods are declared different.

    Args:
        values: The values to estimate a variance for, each of shape (seeds,).
        methods: The number of methods that these values, or differences, are of.
    """
    variances = [(float(each.var(ddof=1)), len(each) - 1) if len(each) > 1 else (0.0, 0) for each in values]
    several = [(variance, freedom) for variance, freedom in variances if freedom]
    results = []
    prior, prior_freedom = _prior(several) if methods >= MIN_VARIANCES and len(several) >= MIN_VARIANCES else (0.0, 0.0)
    for (variance, freedom), each in zip(variances, values, strict=True):
        weight = min(prior_freedom, methods / 4, 3.0 * max(1, freedom))
        if weight:
            moderated = (weight * prior + freedom * variance) / (weight + freedom)
            variance = max(variance, moderated)
        results.append(SeedVariance(variance / len(each), freedom + weight))
    return results


def p_value(difference: float, example_error: float, seed_variance: SeedVariance) -> float:
    """The two-sided p-value of a difference between two means.

    The error is the sum of a normal variable (examples) and one with Student's t distribution (seeds). The p-value is
    integrated over the variance between seeds, which is accurate in the far tails, where simulation is not.

    Args:
        difference: The difference.
        example_error: Its standard error from the test examples.
        seed_variance: Its variance between seeds.
    """
    if not difference or not (example_error or seed_variance.variance):
        return 1.0
    if not seed_variance.variance:
        return float(2 * stats.norm.sf(abs(difference) / example_error))
    deviations = np.sqrt(example_error**2 + seed_variance.variance * _variance_ratios(seed_variance.degrees_of_freedom))
    tails = special.ndtr(-abs(difference) / deviations)
    return float(min(1.0, 2 * (tails * _WEIGHTS).sum()))


def detectable_differences(example_errors: Array, seed_variances: Sequence[SeedVariance], levels: Array) -> Array:
    """The differences that other runs would detect with a power of 80 %.

    The true variance between seeds is uncertain, and so is its estimate in other runs; both are integrated over.

    Args:
        example_errors: The standard error of each difference from the test examples, of shape (differences,).
        seed_variances: The variance of each between seeds.
        levels: The p-value below which each counts as detected, of shape (differences,).

    Returns:
        The detectable differences, of shape (differences,); NaN for a difference without any variance.
    """
    grids = {
        freedom: (_estimate_ratios(freedom), _variance_ratios(freedom))
        for freedom in {each.degrees_of_freedom for each in seed_variances}
    }
    estimates, ratios = (
        np.stack([grids[each.degrees_of_freedom][part] for each in seed_variances])[:, None] for part in (0, 1)
    )
    # Axes: the difference, the true variance, and its estimate in other runs.
    true = np.array([each.variance for each in seed_variances])[:, None, None] / estimates.swapaxes(1, 2)
    variances = example_errors[:, None, None] ** 2 + true
    deviations = np.sqrt(example_errors[:, None, None, None] ** 2 + (true * estimates)[..., None] * ratios[:, None])

    def is_significant(differences: Array) -> Bools:
        p_values: Array = 2 * (special.ndtr(-differences[..., None] / deviations) * _WEIGHTS).sum(3)
        return p_values <= levels[:, None, None]

    def has_power(differences: Array) -> Bools:
        powers: Array = special.ndtr((differences - needed) / np.sqrt(variances)).mean((1, 2), keepdims=True)
        return powers >= POWER

    with np.errstate(invalid="ignore"):
        needed = _smallest_value(is_significant, 1e-3 * deviations.min(3), 1e3 * deviations.max(3))
        high = (needed + 9 * np.sqrt(variances)).max((1, 2), keepdims=True)
        differences = _smallest_value(has_power, 1e-4 * high, high)[:, 0, 0]
    return np.where(variances.any((1, 2)), differences, np.nan)


def _smallest_value(condition: Callable[[Array], Bools], low: Array, high: Array) -> Array:
    """The smallest values at which a monotone condition holds, by bisection of the logarithm."""
    for _ in range(26):
        middle = np.sqrt(low * high)
        holds = condition(middle)
        low, high = np.where(holds, low, middle), np.where(holds, middle, high)
    return high


def _estimate_ratios(freedom: float) -> Array:
    """Ratios of an estimated variance to the true one, at quantiles of equal probability."""
    ratios: Array = (
        stats.chi2.ppf(_ESTIMATE_QUANTILES, freedom) / freedom if freedom else np.ones_like(_ESTIMATE_QUANTILES)
    )
    return ratios


@cache
def _variance_ratios(freedom: float) -> Array:
    """Ratios of the true variance to its estimate, with weights ``_WEIGHTS``; all 1 without degrees of freedom."""
    ratios: Array = freedom / stats.chi2.ppf(_MIDDLES, freedom) if freedom else np.ones_like(_MIDDLES)
    return ratios


# The grid is fine where the true variance is much larger than its estimate, which the far tails depend on.
_EDGES = np.concatenate([[0], np.logspace(-10, np.log10(0.5), 60), 1 - np.logspace(np.log10(0.5), -4, 20)[1:], [1]])
_MIDDLES, _WEIGHTS = (_EDGES[1:] + _EDGES[:-1]) / 2, np.diff(_EDGES)
_ESTIMATE_QUANTILES = (np.arange(3) + 0.5) / 3


def _prior(several: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Fit the prior's variance and degrees of freedom to pairs of both, by the moments of the logarithms."""
    variances, freedoms = (np.array(each, dtype=float) for each in zip(*several, strict=True))
    if not np.median(variances):
        return 0.0, 0.0
    logs = np.log(np.maximum(variances, MIN_RELATIVE_VARIANCE * np.median(variances)))
    logs += np.log(freedoms / 2) - special.digamma(freedoms / 2)
    excess = float(logs.var(ddof=1) - special.polygamma(1, freedoms / 2).mean())
    if excess <= 0:
        return float(np.exp(logs.mean())), np.inf
    half = _trigamma_inverse(excess)
    return float(np.exp(logs.mean() + special.digamma(half) - np.log(half))), 2 * half


def _trigamma_inverse(value: float) -> float:
    """Invert the trigamma function by Newton's method, as in Smyth (2004)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x
