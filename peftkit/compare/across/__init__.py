"""Compares methods across tasks and models."""

from peftkit.compare.across.aggregate import (
    BY_RANK,
    BY_SCORE,
    POCKET_CAVEAT,
    PROFILE_THRESHOLDS,
    AcrossTasks,
    TaskPosterior,
    aggregate_tasks,
    describe_tasks,
    interquartile_mean,
    normalize_scores,
)
from peftkit.compare.across.gather import compare_across_tasks

__all__ = [
    "BY_RANK",
    "BY_SCORE",
    "POCKET_CAVEAT",
    "PROFILE_THRESHOLDS",
    "AcrossTasks",
    "TaskPosterior",
    "aggregate_tasks",
    "compare_across_tasks",
    "describe_tasks",
    "interquartile_mean",
    "normalize_scores",
]
