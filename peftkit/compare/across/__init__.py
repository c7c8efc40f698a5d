"""Which method is best over several tasks and models."""

from peftkit.compare.across.aggregate import (
    POCKET,
    RANK,
    SCORE,
    THRESHOLDS,
    Across,
    Part,
    aggregated,
    interquartile_mean,
    normalised,
    places_of,
)
from peftkit.compare.across.gathering import across
from peftkit.compare.across.pages import notes, rows_of, written

__all__ = [
    "POCKET",
    "RANK",
    "SCORE",
    "THRESHOLDS",
    "Across",
    "Part",
    "across",
    "aggregated",
    "interquartile_mean",
    "normalised",
    "notes",
    "places_of",
    "rows_of",
    "written",
]
