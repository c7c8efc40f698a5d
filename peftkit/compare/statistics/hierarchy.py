"""Samples the posterior of the hierarchical model of methods, seeds and test examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peftkit.compare.statistics.observations import Array, Observations

DEGREES_OF_FREEDOM = 4.0
"""Degrees of freedom of Student's t between methods: one outlier does not inflate the variation of all."""
METHOD_DEVIATIONS = np.concatenate([[0.001], np.geomspace(0.01, 1.0, 40)])
"""The grid of standard deviations between methods, in units of example scores: practically zero, or about 0.005 up."""
PROBABILITY_EQUAL = 0.02
"""The prior probability that it is practically zero; the other values are equally likely."""
SEED_DEVIATIONS = np.geomspace(0.0005, 2.0, 56)
"""The grid of standard deviations between seeds, in the same units."""
LOG_DEVIATION_CENTRES = np.linspace(-2.5, 2.5, 21)
"""The grid of the mean over methods of the logarithm of the standard deviation between seeds, less the prior's."""
LOG_DEVIATION_CENTRE_DEVIATION = 1.0
"""The prior standard deviation of that mean."""
LOG_DEVIATION_DEVIATIONS = np.array([0.05, 0.2, 0.35, 0.5, 0.7, 0.9, 1.2])
"""The grid of the standard deviation over methods of that logarithm, equally likely."""


@dataclass(frozen=True)
class ChoiceEffect:
    """The effect of choosing settings on each method's mean (see ``estimate_choice_effect``).

    Arrays have shape (methods,).
    """

    shift: Array
    """The expected mean over repeated tunings, less that of the chosen settings, on the model's scale."""
    gain: Array
    """The fraction of the chosen settings' error that remains: scores of other settings do not depend on it."""
    variance: Array
    """The variance of the shift."""


@dataclass(frozen=True)
class SamplingEffort:
    """The number of draws."""

    chains: int = 32
    """Parallel chains."""
    warm_up_states: int = 20
    """States of each chain to discard."""
    kept_states: int = 40
    """States of each chain to keep."""
    draws_per_state: int = 4
    """Draws of the methods' means for each kept state."""


def sample_posterior(
    observed: Observations, choice: ChoiceEffect, rng: np.random.Generator, effort: SamplingEffort
) -> Array:
    """Draw the expected scores of methods from the posterior, with several chains of a Gibbs sampler at once.

    Methods vary about a common mean (partial pooling) by Student's t. The standard deviation between seeds is
    log-normal over methods; it is estimated from a method's seeds, and from the distance of its mean to the others. The
    common mean and the deviation between methods are drawn jointly with the methods' means integrated out, so that no
    chain gets stuck where methods are equal.

    Args:
        observed: The means and their variances.
        choice: The effect of choosing settings.
        rng: The random generator.
        effort: The number of draws.

    Returns:
        The draws, on the model's scale, of shape (draws, methods).
    """
    unit, chains, number = observed.example_deviation, effort.chains, len(observed.means)
    means = (observed.means + choice.shift) / unit
    centre = means.mean()
    means = means - centre
    seeds, squares, gain = observed.num_seeds, observed.sum_squares / unit**2, choice.gain
    totals = (SEED_DEVIATIONS**2 + observed.run_example_variance / unit**2)[None, None]
    choice_variance = choice.variance / unit**2
    logs = np.log(SEED_DEVIATIONS)
    typical = np.log(observed.prior_seed_deviation / unit)
    places, widths = (
        each.ravel() for each in np.meshgrid(typical + LOG_DEVIATION_CENTRES, LOG_DEVIATION_DEVIATIONS, indexing="ij")
    )
    prior = -0.5 * ((places - typical) / LOG_DEVIATION_CENTRE_DEVIATION) ** 2 - number * np.log(widths)
    spread_prior = np.log(
        np.where(
            np.arange(len(METHOD_DEVIATIONS)) == 0,
            PROBABILITY_EQUAL,
            (1 - PROBABILITY_EQUAL) / (len(METHOD_DEVIATIONS) - 1),
        )
    )
    errors = np.zeros((chains, number))
    weights = np.ones((chains, number))
    pick = rng.integers(0, len(places), chains)
    rows, draws = np.arange(chains), []
    for step in range(effort.warm_up_states + effort.kept_states):
        # The standard deviation between seeds: of each method, and its distribution over methods.
        sums = (squares + seeds * errors**2)[:, :, None]
        log_likelihoods = -0.5 * (seeds[:, None] * np.log(totals) + sums / totals)
        chosen = _draw_index(
            log_likelihoods - 0.5 * ((logs - places[pick][:, None, None]) / widths[pick][:, None, None]) ** 2, rng
        )
        pick = _draw_index(prior - 0.5 * _sum_squared_distances(logs[chosen], places) / widths**2, rng)
        seed_variance = totals[0, 0, chosen] / seeds
        # The variance over examples is itself estimated from a limited number of examples.
        log_error = 1 / np.sqrt(max(1, observed.num_groups))
        interaction = observed.method_example_variance / unit**2 * np.exp(log_error * rng.standard_normal((chains, 1)))
        # The methods' means, their common mean, and the deviation between them.
        noise = gain**2 * seed_variance + interaction + choice_variance
        inverse = 1 / (noise[:, None] + METHOD_DEVIATIONS[:, None] ** 2 / weights[:, None])
        precision = inverse.sum(2)
        middle = (means * inverse).sum(2) / precision
        residual = ((means - middle[:, :, None]) ** 2 * inverse).sum(2)
        place = _draw_index(spread_prior + 0.5 * (np.log(inverse).sum(2) - np.log(precision) - residual), rng)
        spread = METHOD_DEVIATIONS[place, None] ** 2 / weights
        repeats = effort.draws_per_state if step >= effort.warm_up_states else 1
        shape = (repeats, chains, number)
        common = middle[rows, place] + rng.standard_normal(shape[:2]) / np.sqrt(precision[rows, place])
        expected = (common[:, :, None] * noise + means * spread) / (noise + spread)
        theta = expected + np.sqrt(noise * spread / (noise + spread)) * rng.standard_normal(shape)
        if step >= effort.warm_up_states:
            draws.append(theta.reshape(-1, number))
        # The part of each mean's residual that is due to its seeds.
        share = gain * seed_variance / noise
        left = np.maximum(seed_variance - gain * seed_variance * share, 0.0)
        errors = share * (means - theta[-1]) + np.sqrt(left) * rng.standard_normal((chains, number))
        distance = (theta[-1] - common[-1][:, None]) ** 2 / METHOD_DEVIATIONS[place, None] ** 2
        weights = rng.gamma((DEGREES_OF_FREEDOM + 1) / 2, 2 / (DEGREES_OF_FREEDOM + distance))
    values = np.concatenate(draws)
    shifts = np.sqrt(observed.shared_example_variance) / unit * rng.standard_normal((len(values), 1))
    result: Array = (values + shifts + centre) * unit
    return result


def _draw_index(logs: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw an index of the last axis, with probabilities proportional to the exponentials of ``logs``."""
    cumulative = np.exp(logs - logs.max(-1, keepdims=True)).cumsum(-1)
    drawn = rng.random((*cumulative.shape[:-1], 1)) * cumulative[..., -1:]
    indices: NDArray[np.int64] = (cumulative < drawn).sum(-1)
    return indices


def _sum_squared_distances(values: Array, places: Array) -> Array:
    """Sums of squared distances of each chain's values, of shape (chains, methods), to each place."""
    number = values.shape[1]
    first, second = values.sum(1, keepdims=True), (values**2).sum(1, keepdims=True)
    sums: Array = second - 2 * places * first + number * places**2
    return sums
