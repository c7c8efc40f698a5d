"""Computes intervals of the cost to reach a score, and the probability that it is reached."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from peftkit.compare.statistics.posterior import CONFIDENCE_LEVEL


def cost_interval(reached: Sequence[tuple[float, float] | None], lowest: float) -> tuple[float, float] | None:
    """The 95 % interval of the typical cost to reach a level: the geometric mean over seeds, by Student's t.

    A run reaches a level between two evaluations, so the lower end uses the costs before and the upper end those after.

    Args:
        reached: For each seed, the costs of the evaluation before the level was reached and of the one that reached it
            (see ``learning_curves.reached_at``).
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
