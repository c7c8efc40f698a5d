"""Reads the scores of input-blind baselines from run summaries (see ``evaluate.baselines``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from peftkit.compare.learning_curves import is_number


def recorded_baselines(baselines: Mapping[str, Any], metric: str, split: str) -> dict[str, float]:
    """The score of each baseline of one run.

    Args:
        baselines: The ``baselines`` of the run's summary.
        metric: The metric.
        split: ``dev`` or ``test``.

    Returns:
        Scores by baseline; empty where the metric has none, such as the loss.
    """
    values = {
        name: (by_split.get(split) or {}).get(metric)
        for name, by_split in baselines.items()
        if isinstance(by_split, Mapping)
    }
    return {name: float(value) for name, value in values.items() if is_number(value)}


def mean_baseline_scores(summaries: Iterable[Mapping[str, Any]], metric: str, split: str) -> dict[str, float]:
    """The score of each baseline, averaged over the runs that record it.

    Args:
        summaries: The runs' summaries.
        metric: The metric.
        split: ``dev`` or ``test``.
    """
    scores: dict[str, list[float]] = {}
    for summary in summaries:
        for name, value in recorded_baselines(summary.get("baselines") or {}, metric, split).items():
            scores.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in scores.items()}


def merge_close_labels(scores: Mapping[str, float], room: float) -> list[tuple[str, float]]:
    """Labels for horizontal lines at the baselines' scores, from the lowest.

    Args:
        scores: Scores by baseline.
        room: The least distance between two labels, as a score. Closer baselines share a label at the highest of them.
    """
    groups: list[list[str]] = []
    for name in sorted(scores, key=lambda each: (scores[each], each)):
        if groups and scores[name] - scores[groups[-1][-1]] <= room:
            groups[-1].append(name)
        else:
            groups.append([name])
    return [(", ".join(names), scores[names[-1]]) for names in groups]
