"""Finds the Pareto front of scores and costs, and the probability that a method is on it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from peftkit.compare.statistics import Posterior
from peftkit.compare.statistics.observations import Array

ON_FRONT = 0.5
"""The probability from which a method counts as on the Pareto front."""


def on_pareto_front(scores: Array, costs: Array, steps: Array) -> NDArray[np.bool_]:
    """Determine the Pareto front: methods that no other dominates with a higher score, a lower cost, or both.

    A run ends with the step that reaches its budget, so small differences in cost are arbitrary: costs that differ by
    less than one training step of either method are equal.

    Args:
        scores: Draws of the scores, of shape (draws, methods), higher is better.
        costs: The cost of each method, of shape (methods,), or draws of it, of shape (draws, methods).
        steps: The cost of one training step of each, of shape (methods,); 0 if costs do not grow with steps.

    Returns:
        Whether each method is on the front, of shape (draws, methods).
    """
    on_front = np.empty(scores.shape, dtype=bool)
    for place in range(scores.shape[1]):
        difference = costs - costs[..., [place]]
        equal = (difference == 0) | (np.abs(difference) < np.maximum(steps, steps[place]))
        less = (difference < 0) & ~equal
        score = scores[:, [place]]
        on_front[:, place] = ~(((scores > score) & equal) | ((scores >= score) & less)).any(1)
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
