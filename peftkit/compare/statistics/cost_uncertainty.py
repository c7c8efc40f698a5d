"""Computes intervals of costs, and probabilities of the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from peftkit.compare.statistics import Posterior
from peftkit.compare.statistics.observations import Array
from peftkit.compare.statistics.posterior import CONFIDENCE_LEVEL

ON_FRONT = 0.5
"""The probability from which a method counts as on the Pareto front."""


def on_pareto_front(scores: Array, costs: Array, steps: Array) -> NDArray[np.bool_]:
    """Determine the Pareto front: methods that no other dominates with a higher score, a lower cost, or both.

    A run ends with the step that reaches its budget, so small differences in cost are arbitrary: costs that differ by
    less than one training step of either method are equal.

    Args:
        scores: Draws of the scores, of shape (draws, methods), higher is better.
        costs: The cost of each method, of shape (methods,).
        steps: The cost of one training step of each, of shape (methods,); 0 if costs do not grow with steps.

    Returns:
        Whether each method is on the front, of shape (draws, methods).
    """
    on_front = np.empty(scores.shape, dtype=bool)
    for place, cost in enumerate(costs):
        difference = costs - cost
        equal = (difference == 0) | (np.abs(difference) < np.maximum(steps, steps[place]))
        less = (difference < 0) & ~equal
        score = scores[:, [place]]
        on_front[:, place] = ~((scores[:, equal] > score).any(1) | (scores[:, less] >= score).any(1))
    return on_front


def front_probabilities(
    posterior: Posterior, costs: Mapping[str, float], steps: Mapping[str, float]
) -> Mapping[str, float]:
    """The probability that each method is on the Pareto front of the methods with several seeds.

    Args:
        posterior: The posterior of the methods' scores.
        costs: The cost by method.
        steps: The cost of one training step, by method.
    """
    if not posterior.names:
        return {}
    sign = 1.0 if posterior.higher_is_better else -1.0
    arrays = [np.array([by_name[name] for name in posterior.names]) for by_name in (costs, steps)]
    probabilities = on_pareto_front(sign * posterior.draws, *arrays).mean(0)
    return dict(zip(posterior.names, probabilities.tolist(), strict=True))


def pareto_front(
    posterior: Posterior, scores: Mapping[str, float], costs: Mapping[str, float], steps: Mapping[str, float]
) -> tuple[str, ...]:
    """The methods that are on the Pareto front with a probability of at least one half.

    Args:
        posterior: The posterior of the methods' scores.
        scores: The mean scores of runs, higher is better; used if no method has several seeds.
        costs: The cost by method.
        steps: The cost of one training step, by method.
    """
    if posterior.names:
        probabilities = front_probabilities(posterior, costs, steps)
        return tuple(name for name, probability in probabilities.items() if probability >= ON_FRONT)
    arrays = [np.array([by_name[name] for name in scores]) for by_name in (costs, steps)]
    [on_front] = on_pareto_front(np.array([[*scores.values()]]), *arrays)
    return tuple(name for name, is_on in zip(scores, on_front.tolist(), strict=True) if is_on)


def cost_interval(reached: Sequence[tuple[float, float] | None], lowest: float) -> tuple[float, float] | None:
    """The 95 % interval of the typical cost to reach a level: the geometric mean over seeds, by Student's t.

    A run reaches a level between two evaluations, so the lower end uses the costs before and the upper end those after.

    Args:
        reached: For each seed, the costs of the evaluation before the level was reached and of the one that reached it
            (see ``curves.reached_at``).
        lowest: The cost of the first training step, a lower bound.

    Returns:
        The two ends; None with one seed, if any seed never reached the level, or if it took no training.
    """
    points = [each for each in reached if each is not None]
    if len(points) < 2 or len(points) < len(reached) or min(after for _, after in points) <= 0 or lowest <= 0:
        return None
    after = np.log([after for _, after in points])
    before = np.minimum(np.log([max(before, lowest) for before, _ in points]), after)
    quantile = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, len(points) - 1)) / math.sqrt(len(points))
    low, high = before.mean() - quantile * before.std(ddof=1), after.mean() + quantile * after.std(ddof=1)
    return max(math.exp(low), min(lowest, math.exp(high))), math.exp(high)


def reach_probability(reached: Sequence[tuple[float, float] | None]) -> float | None:
    """The probability that a run with another seed reaches a level, with Jeffreys' prior; None with one seed."""
    if len(reached) < 2:
        return None
    return (sum(each is not None for each in reached) + 0.5) / (len(reached) + 1)
