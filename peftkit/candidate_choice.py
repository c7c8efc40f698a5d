"""The candidate that scores predict."""

from __future__ import annotations

import math
from collections.abc import Sequence


def argmax_candidate(candidates: Sequence[str], scores: Sequence[float]) -> str:
    """Return the candidate with the highest score; ties go to the alphabetically first one, so order does not matter.

    Args:
        candidates: The texts.
        scores: Their scores; NaN counts as the lowest.
    """
    comparable = [-math.inf if math.isnan(score) else score for score in scores]
    highest = max(comparable)
    return min(text for text, score in zip(candidates, comparable, strict=True) if score == highest)
