"""The hierarchical model of methods, seeds and test examples, sampled from its posterior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftkit.compare.statistics.observations import TYPICAL_SEEDS, Array, Observations

FREEDOM = 4.0
"""Degrees of freedom of Student's t that methods vary by: one that is far off does not decide how much all vary."""
SPREADS = np.concatenate([[0.001], np.geomspace(0.006, 1.0, 40)])
"""Standard deviations between methods in those of example scores: next to nothing, or from a quarter of a point on."""
KAPPA = 1.0
EQUAL = 0.02
"""The probability, before anything is seen, that it is next to nothing; the others are equally likely."""
DEVIATIONS = np.geomspace(0.0005, 2.0, 56)
"""Standard deviations between seeds, likewise."""
CENTRES = np.log(TYPICAL_SEEDS) + np.linspace(-2.5, 2.5, 21)
"""Of the logarithm of standard deviations between seeds, its mean over methods: about one point, give or take."""
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
    seeds, squares = observed.seeds, observed.squares / unit**2
    alone = observed.run_variance / unit**2
    # What all methods have in common is no evidence of where they are, however much each is said to have of it.
    projection = np.eye(number) - 1 / number
    common_error = float(np.sqrt(observed.examples.mean())) / unit
    gain = choice.gain
    examples = projection @ observed.examples @ projection / unit**2 + np.diag(choice.variance / unit**2)
    roots, vectors = np.linalg.eigh(examples)
    half = vectors * np.sqrt(np.maximum(roots, 0.0))
    logs = np.log(DEVIATIONS)
    totals = DEVIATIONS**2 + alone[:, None]  # methods × deviations
    before = np.log(np.where(np.arange(len(SPREADS)) == 0, EQUAL, (1 - EQUAL) / (len(SPREADS) - 1)))
    hyper = (CENTRES[:, None], WIDTHS[None, :])
    prior = np.broadcast_to(-0.5 * ((hyper[0] - np.log(TYPICAL_SEEDS)) / CENTRE_DEVIATION) ** 2, (21, 7)).ravel()
    places, widths = (np.broadcast_to(each, (21, 7)).ravel() for each in hyper)
    errors = np.zeros((chains, number))
    weights = np.ones((chains, number))
    pick = rng.integers(0, len(places), chains)
    drawn = []
    for step in range(effort.warm_up + effort.kept):
        # How much seeds vary, of each method and of all of them.
        sums = squares + seeds * errors**2
        chances = -0.5 * (seeds[:, None] * np.log(totals) + sums[:, :, None] / totals)
        place, width = places[pick][:, None, None], widths[pick][:, None, None]
        chances = chances - 0.5 * ((logs - place) / width) ** 2
        chosen = _choose(chances, rng)
        own = logs[chosen]
        of_all = prior - number * np.log(widths) - 0.5 * _squares(own, places) / widths**2
        pick = _choose(of_all, rng)
        seed_variance = np.take_along_axis(totals[None], chosen[:, :, None], 2)[:, :, 0] / seeds
        # Where methods are, and how much they vary.
        root = np.sqrt(weights)
        # How methods vary over examples is known from these examples alone: no more than their number allows.
        scale = np.exp(KAPPA * rng.standard_normal(chains) / np.sqrt(observed.groups)) if observed.groups else np.ones(chains)
        noise = scale[:, None, None] * examples + np.eye(number) * (gain**2 * seed_variance)[:, None, :]
        values, basis = np.linalg.eigh(noise * root[:, :, None] * root[:, None, :])
        values = np.maximum(values, 1e-12)
        y = np.einsum("cji,cj->ci", basis, root * means)
        ones = np.einsum("cji,cj->ci", basis, root)
        inverse = 1 / (values[:, None, :] + SPREADS[None, :, None] ** 2)
        precision = (ones[:, None] ** 2 * inverse).sum(2)
        middle = (ones[:, None] * y[:, None] * inverse).sum(2) / precision
        residual = ((y[:, None] - ones[:, None] * middle[:, :, None]) ** 2 * inverse).sum(2)
        spread_at = _choose(before + 0.5 * (np.log(inverse).sum(2) - np.log(precision) - residual), rng)
        rows = np.arange(chains)
        spread = SPREADS[spread_at][:, None]
        last = step >= effort.warm_up
        for _ in range(effort.each if last else 1):
            common = middle[rows, spread_at] + rng.standard_normal(chains) / np.sqrt(precision[rows, spread_at])
            true = common[:, None] + spread / root * rng.standard_normal((chains, number))
            by_seeds = np.sqrt(seed_variance) * rng.standard_normal((chains, number))
            by_examples = np.sqrt(scale)[:, None] * (rng.standard_normal((chains, number)) @ half.T)
            off = root * (means - true - by_examples - gain * by_seeds)
            solved = np.einsum("cji,cj->ci", basis, off) * inverse[rows, spread_at]
            solved = root * np.einsum("cij,cj->ci", basis, solved)
            theta = true + spread**2 / weights * solved
            if last:
                drawn.append(theta)
        errors = by_seeds + gain * seed_variance * solved
        distance = (theta - common[:, None]) ** 2 / spread**2
        weights = rng.gamma((FREEDOM + 1) / 2, 2 / (FREEDOM + distance))
    means_drawn = np.concatenate(drawn)
    shifts = common_error * rng.standard_normal((len(means_drawn), 1))
    found: Array = (means_drawn + shifts + centre) * unit
    return found


def _choose(logs: Array, rng: np.random.Generator) -> np.ndarray:  # type: ignore[type-arg]
    """The number of one of the last axis' chances, which are logarithms."""
    chances = np.exp(logs - logs.max(-1, keepdims=True)).cumsum(-1)
    return (chances < rng.random((*chances.shape[:-1], 1)) * chances[..., -1:]).sum(-1)


def _squares(own: Array, places: Array) -> Array:
    """Sums of squared distances of each chain's values from each place."""
    number = own.shape[1]
    first, second = own.sum(1, keepdims=True), (own**2).sum(1, keepdims=True)
    found: Array = second - 2 * places * first + number * places**2
    return found
