"""How sure costs and the Pareto front are: intervals and probabilities beside those of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from peftkit.compare.curves import Array
from peftkit.compare.statistics import Posterior

LEVEL = 0.95
ON_FRONT = 0.5
"""The probability from which on a method counts as on the Pareto front."""


def undominated(scores: Array, costs: Array, steps: Array) -> NDArray[np.bool_]:
    """Where no other method scores as much for as little, and more or for less.

    A run ends with the step that reaches its budget, so the last step decides which of two costs is a little higher.
    Costs that differ by less than one training step of either method are equal.

    Args:
        scores: draws × methods, higher is better.
        costs: of each method.
        steps: the cost of one training step of each; 0 where costs do not grow with steps.

    Returns:
        Of each draw, whether each method is on the front.
    """
    found = np.empty(scores.shape, dtype=bool)
    for place, cost in enumerate(costs):
        difference = costs - cost
        equal = (difference == 0) | (np.abs(difference) < np.maximum(steps, steps[place]))
        less = (difference < 0) & ~equal
        own = scores[:, [place]]
        found[:, place] = ~((scores[:, equal] > own).any(1) | (scores[:, less] >= own).any(1))
    return found


def front_probabilities(
    posterior: Posterior, costs: Mapping[str, float], steps: Mapping[str, float]
) -> Mapping[str, float]:
    """The probability of each method with several seeds that it is on the Pareto front among these.

    Args:
        posterior: of the methods' scores.
        costs: by method.
        steps: the cost of one training step, by method.
    """
    if not posterior.names:
        return {}
    sign = 1.0 if posterior.higher_is_better else -1.0
    of = [np.array([each[name] for name in posterior.names]) for each in (costs, steps)]
    found = undominated(sign * posterior.draws, *of).mean(0)
    return dict(zip(posterior.names, found.tolist(), strict=True))


def front(
    posterior: Posterior, scores: Mapping[str, float], costs: Mapping[str, float], steps: Mapping[str, float]
) -> tuple[str, ...]:
    """The methods on the Pareto front: with a probability of a half or more, or by their scores if all have one seed.

    Args:
        posterior: of the methods' scores.
        scores: of their runs, higher is better; these decide if no method has several seeds.
        costs: by method.
        steps: the cost of one training step, by method.
    """
    if posterior.names:
        return tuple(name for name, each in front_probabilities(posterior, costs, steps).items() if each >= ON_FRONT)
    of = [np.array([each[name] for name in scores]) for each in (costs, steps)]
    [found] = undominated(np.array([[*scores.values()]]), *of)
    return tuple(name for name, each in zip(scores, found.tolist(), strict=True) if each)


def cost_interval(reached: Sequence[tuple[float, float] | None], lowest: float) -> tuple[float, float] | None:
    """The 95 % interval of the typical cost (the geometric mean over seeds) at which a level is reached.

    It is Student's t on the logarithm. A run reaches a level between two evaluations: the lower end is taken from the
    costs before, the upper end from those at which it was seen.

    Args:
        reached: of each seed, the cost before the level was reached and the cost at which it was (see ``reached_at``).
        lowest: the cost of the first training step, before which nothing is trained.

    Returns:
        The two ends; None of one seed, where a seed never reached the level, and where it took no training.
    """
    costs = [each for each in reached if each is not None]
    if len(costs) < 2 or len(costs) < len(reached) or min(after for _, after in costs) <= 0 or lowest <= 0:
        return None
    after = np.log([after for _, after in costs])
    before = np.minimum(np.log([max(before, lowest) for before, _ in costs]), after)
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(costs) - 1)) / math.sqrt(len(costs))
    low, high = before.mean() - quantile * before.std(ddof=1), after.mean() + quantile * after.std(ddof=1)
    return max(math.exp(low), min(lowest, math.exp(high))), math.exp(high)


def reach_probability(reached: Sequence[tuple[float, float] | None]) -> float | None:
    """The probability that a run with another seed reaches a level, after Jeffreys; None of one seed."""
    if len(reached) < 2:
        return None
    return (sum(each is not None for each in reached) + 0.5) / (len(reached) + 1)
