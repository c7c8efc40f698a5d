"""How much scores vary with the seed, of which there are few, and how likely a difference is by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

POWER = 0.8
"""How often a difference is found that is called one that would be."""
FEWEST = 5
"""Methods from which on their variances tell something of each other's."""
SMALLEST = 1e-3
"""The share of the median that a variance counts as at least: a logarithm of none there is not."""


@dataclass(frozen=True)
class Spread:
    """The variance of a mean over seeds, and the degrees of freedom with which it is known; 0 and 0 of one seed."""

    variance: float
    freedom: float


def spreads(values: Sequence[Array], methods: int) -> list[Spread]:
    """How the means over seeds of several things vary, each told by its own values and, a little, by the others'.

    Three seeds say little of a variance, those of many methods together say more: the posterior variance of Smyth
    (2004), whose prior is fitted to all of them. It takes methods' variances to be draws of one distribution, and an
    unstable method among stable ones is none; so the prior never counts for more than three times as much as the own
    values or a quarter of the methods, no variance is taken for smaller than it looks, and of fewer than five methods
    nothing is borrowed (``scripts/benchmark_compare.py --errors`` shows how often equal methods are told apart).

    Args:
        values: of each thing its value for each seed.
        methods: how many methods they are of, or are differences of.
    """
    own = [(float(each.var(ddof=1)), len(each) - 1) if len(each) > 1 else (0.0, 0) for each in values]
    several = [(variance, freedom) for variance, freedom in own if freedom]
    found = []
    before, counts = _prior(several) if methods >= FEWEST and len(several) >= FEWEST else (0.0, 0.0)
    for (variance, freedom), each in zip(own, values, strict=True):
        weight = min(counts, methods / 4, 3.0 * max(1, freedom))
        if weight:
            moderated = (weight * before + freedom * variance) / (weight + freedom)
            variance = max(variance, moderated)
        found.append(Spread(variance / len(each), freedom + weight))
    return found


def chance(difference: float, of_examples: float, of_seeds: Spread) -> float:
    """The probability, two-sided, that a difference at least so large is seen where there is none.

    The sum of a normal variable and of one by Student's t is larger than it: the mean over what the variance between
    seeds may be, which is exact far out too, where draws would not come.

    Args:
        difference: of two means.
        of_examples: its standard error by the test examples.
        of_seeds: how it varies with the seed.
    """
    if not difference or not (of_examples or of_seeds.variance):
        return 1.0
    if not of_seeds.variance:
        return float(2 * stats.norm.sf(abs(difference) / of_examples))
    deviations = np.sqrt(of_examples**2 + of_seeds.variance * _scales(of_seeds.freedom))
    beyond = special.ndtr(-abs(difference) / deviations)
    return float(min(1.0, 2 * (beyond * _WEIGHTS).sum()))


def detectable(of_examples: Array, of_seeds: Sequence[Spread], levels: Array) -> Array:
    """The differences of which ``chance`` would be no more than their level about four times in five, in other runs.

    Of the variance between seeds it is known only how it looks here, and in other runs it would look otherwise.

    Args:
        of_examples: of each difference its standard error by the test examples.
        of_seeds: how each varies with the seed.
        levels: of each the chance from which on it counts.

    Returns:
        NaN for a difference that does not vary at all.
    """
    of = {freedom: (_looks(freedom), _scales(freedom)) for freedom in {spread.freedom for spread in of_seeds}}
    looks, scales = (np.stack([of[spread.freedom][part] for spread in of_seeds])[:, None] for part in (0, 1))
    # By difference, by what the variance may be, and by how that would look.
    true = np.array([spread.variance for spread in of_seeds])[:, None, None] / looks.swapaxes(1, 2)
    variances = of_examples[:, None, None] ** 2 + true
    deviations = np.sqrt(of_examples[:, None, None, None] ** 2 + (true * looks)[..., None] * scales[:, None])

    def counts(differences: Array) -> Bools:
        chances: Array = 2 * (special.ndtr(-differences[..., None] / deviations) * _WEIGHTS).sum(3)
        return chances <= levels[:, None, None]

    def found(differences: Array) -> Bools:
        chances: Array = special.ndtr((differences - needed) / np.sqrt(variances)).mean((1, 2), keepdims=True)
        return chances >= POWER

    with np.errstate(invalid="ignore"):
        needed = _first(counts, 1e-3 * deviations.min(3), 1e3 * deviations.max(3))
        high = (needed + 9 * np.sqrt(variances)).max((1, 2), keepdims=True)
        told = _first(found, 1e-4 * high, high)[:, 0, 0]
    return np.where(variances.any((1, 2)), told, np.nan)


def _first(holds: Callable[[Array], Bools], low: Array, high: Array) -> Array:
    """The least values from which on something holds, by halves of the logarithm: a few seeds reach far."""
    for _ in range(26):
        middle = np.sqrt(low * high)
        there = holds(middle)
        low, high = np.where(there, low, middle), np.where(there, middle, high)
    return high


def _looks(freedom: float) -> Array:
    """What a variance of one may look like with other seeds, in steps of equal probability."""
    found: Array = stats.chi2.ppf(_LOOKS, freedom) / freedom if freedom else np.ones_like(_LOOKS)
    return found


@cache
def _scales(freedom: float) -> Array:
    """By how much a variance may be larger than it looks, in the steps of ``_WEIGHTS``; of none, not at all."""
    found: Array = freedom / stats.chi2.ppf(_MIDDLES, freedom) if freedom else np.ones_like(_MIDDLES)
    return found


# Fine where the variance between seeds is much larger than it looks, which far differences come from.
_EDGES = np.concatenate([[0], np.logspace(-10, np.log10(0.5), 60), 1 - np.logspace(np.log10(0.5), -4, 20)[1:], [1]])
_MIDDLES, _WEIGHTS = (_EDGES[1:] + _EDGES[:-1]) / 2, np.diff(_EDGES)
_LOOKS = (np.arange(3) + 0.5) / 3


def _prior(several: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """The prior's variance, and the degrees of freedom that it counts for, by the moments of the logarithms."""
    variances, freedoms = (np.array(each, dtype=float) for each in zip(*several, strict=True))
    if not np.median(variances):
        return 0.0, 0.0
    logs = np.log(np.maximum(variances, SMALLEST * np.median(variances)))
    logs += np.log(freedoms / 2) - special.digamma(freedoms / 2)
    excess = float(logs.var(ddof=1) - special.polygamma(1, freedoms / 2).mean())
    if excess <= 0:
        return float(np.exp(logs.mean())), np.inf
    half = _trigamma_inverse(excess)
    return float(np.exp(logs.mean() + special.digamma(half) - np.log(half))), 2 * half


def _trigamma_inverse(value: float) -> float:
    """By Newton's method, as Smyth (2004) has it."""
    found = 0.5 + 1 / value
    for _ in range(50):
        here = float(special.polygamma(1, found))
        step = here * (1 - here / value) / float(special.polygamma(2, found))
        found += step
        if abs(step) < 1e-10 * found:
            break
    return found
