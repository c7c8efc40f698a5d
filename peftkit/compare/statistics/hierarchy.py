"""The hierarchical model of methods, seeds and test examples, sampled from its posterior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peftkit.compare.statistics.observations import Array, Observations

FREEDOM = 4.0
"""Degrees of freedom of Student's t that methods vary by: one that is far off does not decide how much all vary."""
SPREADS = np.concatenate([[0.001], np.geomspace(0.01, 1.0, 40)])
"""Standard deviations between methods in those of example scores: next to nothing, or from about half a point on."""
EQUAL = 0.02
"""The probability, before anything is seen, that it is next to nothing; the others are equally likely."""
DEVIATIONS = np.geomspace(0.0005, 2.0, 56)
"""Standard deviations between seeds, likewise."""
CENTRES = np.linspace(-2.5, 2.5, 21)
"""Of the logarithm of standard deviations between seeds, its mean over methods less that of the typical one."""
CENTRE_DEVIATION = 1.0
WIDTHS = np.array([0.05, 0.2, 0.35, 0.5, 0.7, 0.9, 1.2])
"""And its standard deviation over methods, equally likely."""


@dataclass(frozen=True)
class Choice:
    """What the choice of settings does to each method's mean (see ``choice``), on the model's scale."""

    shift: Array
    """By how much the expected mean over choices differs from that of the chosen settings."""
    gain: Array
    """How much of the error by seeds is left in it: what other settings score does not depend on it."""
    variance: Array
    """Of the shift."""


@dataclass(frozen=True)
class Effort:
    """How long to sample."""

    chains: int = 32
    warm_up: int = 20
    kept: int = 40
    each: int = 4
    """Draws of the methods' means for each state of the chain."""


def sample(observed: Observations, choice: Choice, rng: np.random.Generator, effort: Effort) -> Array:
    """Draws of the expected scores of methods, on the model's scale: draws × methods.

    A Gibbs sampler of several chains at once. Methods vary about a common mean (partial pooling) by Student's t; of
    each, seeds vary by a standard deviation that is log-normal over methods, and known from its seeds and from how far
    its mean is from where the others are. The common mean and the spread between methods are drawn together, with the
    methods' means integrated out, so that no chain is caught where methods are equal.

    Args:
        observed: the means and how they vary.
        choice: that of the settings.
        rng: the source of randomness.
        effort: how long to sample.
    """
    unit, chains, number = observed.unit, effort.chains, len(observed.means)
    means = (observed.means + choice.shift) / unit
    centre = means.mean()
    means = means - centre
    seeds, squares, gain = observed.seeds, observed.squares / unit**2, choice.gain
    totals = (DEVIATIONS**2 + observed.run_variance / unit**2)[None, None]
    own_error = choice.variance / unit**2
    logs = np.log(DEVIATIONS)
    typical = np.log(observed.typical / unit)
    places, widths = (each.ravel() for each in np.meshgrid(typical + CENTRES, WIDTHS, indexing="ij"))
    prior = -0.5 * ((places - typical) / CENTRE_DEVIATION) ** 2 - number * np.log(widths)
    before = np.log(np.where(np.arange(len(SPREADS)) == 0, EQUAL, (1 - EQUAL) / (len(SPREADS) - 1)))
    errors = np.zeros((chains, number))
    weights = np.ones((chains, number))
    pick = rng.integers(0, len(places), chains)
    rows, drawn = np.arange(chains), []
    for step in range(effort.warm_up + effort.kept):
        # How much seeds vary, of each method and of all of them.
        sums = (squares + seeds * errors**2)[:, :, None]
        chances = -0.5 * (seeds[:, None] * np.log(totals) + sums / totals)
        chosen = _choose(chances - 0.5 * ((logs - places[pick][:, None, None]) / widths[pick][:, None, None]) ** 2, rng)
        pick = _choose(prior - 0.5 * _squares(logs[chosen], places) / widths**2, rng)
        by_seeds = totals[0, 0, chosen] / seeds
        # How methods vary over examples is known from these examples alone: no more than their number allows.
        sure = 1 / np.sqrt(max(1, observed.groups))
        interaction = observed.interaction / unit**2 * np.exp(sure * rng.standard_normal((chains, 1)))
        # Where methods are, and how much they vary.
        noise = gain**2 * by_seeds + interaction + own_error
        inverse = 1 / (noise[:, None] + SPREADS[:, None] ** 2 / weights[:, None])
        precision = inverse.sum(2)
        middle = (means * inverse).sum(2) / precision
        residual = ((means - middle[:, :, None]) ** 2 * inverse).sum(2)
        found = _choose(before + 0.5 * (np.log(inverse).sum(2) - np.log(precision) - residual), rng)
        spread = SPREADS[found, None] ** 2 / weights
        kept = effort.each if step >= effort.warm_up else 1
        shape = (kept, chains, number)
        common = middle[rows, found] + rng.standard_normal(shape[:2]) / np.sqrt(precision[rows, found])
        expected = (common[:, :, None] * noise + means * spread) / (noise + spread)
        theta = expected + np.sqrt(noise * spread / (noise + spread)) * rng.standard_normal(shape)
        if step >= effort.warm_up:
            drawn.append(theta.reshape(-1, number))
        # Of what is left of a mean, seeds have their share.
        share = gain * by_seeds / noise
        left = np.maximum(by_seeds - gain * by_seeds * share, 0.0)
        errors = share * (means - theta[-1]) + np.sqrt(left) * rng.standard_normal((chains, number))
        distance = (theta[-1] - common[-1][:, None]) ** 2 / SPREADS[found, None] ** 2
        weights = rng.gamma((FREEDOM + 1) / 2, 2 / (FREEDOM + distance))
    values = np.concatenate(drawn)
    shifts = np.sqrt(observed.common) / unit * rng.standard_normal((len(values), 1))
    result: Array = (values + shifts + centre) * unit
    return result


def _choose(logs: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """The number of one of the last axis' chances, which are logarithms."""
    chances = np.exp(logs - logs.max(-1, keepdims=True)).cumsum(-1)
    chosen: NDArray[np.int64] = (chances < rng.random((*chances.shape[:-1], 1)) * chances[..., -1:]).sum(-1)
    return chosen


def _squares(own: Array, places: Array) -> Array:
    """Sums of squared distances of each chain's values from each place."""
    number = own.shape[1]
    first, second = own.sum(1, keepdims=True), (own**2).sum(1, keepdims=True)
    found: Array = second - 2 * places * first + number * places**2
    return found
