"""Scores per example of metrics that are no means over examples: jackknife pseudo-values (Tukey, 1958)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def pseudo_values(statistics: Array, score: Callable[[Array], Any]) -> list[float]:
    """Return a score for each example, whose mean is the score of all examples.

    The metric must depend on the examples through sums only, as micro F1, BLEU and Pearson's correlation do. An
    example's value says how much the score changes without it.

    Args:
        statistics: The terms of the sums, of shape (examples, sums).
        score: Returns scores of shape (…) from sums of shape (…, sums).

    Returns:
        The centred pseudo-values; the score itself for a single example.
    """
    total = statistics.sum(axis=0)
    whole = float(score(total))
    number = len(statistics)
    if number < 2:
        return [whole] * number
    without = np.asarray(score(total - statistics), dtype=float)
    contributions = (number - 1) * (whole - np.where(np.isfinite(without), without, whole))
    centred: Sequence[float] = (whole + contributions - contributions.mean()).tolist()
    return [*centred]
