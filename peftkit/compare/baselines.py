"""What the baselines score that read nothing, as runs record it (see ``runner.baselines``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from peftkit.compare.curves import is_number


def recorded(baselines: Mapping[str, Any], metric: str, split: str) -> dict[str, float]:
    """What each baseline of a run scores on a split; empty where the metric has none, such as the loss."""
    values = {name: (of.get(split) or {}).get(metric) for name, of in baselines.items() if isinstance(of, Mapping)}
    return {name: float(value) for name, value in values.items() if is_number(value)}


def mean_scores(summaries: Iterable[Mapping[str, Any]], metric: str, split: str) -> dict[str, float]:
    """What each baseline scores on a split, mean over the runs whose summaries record it."""
    found: dict[str, list[float]] = {}
    for summary in summaries:
        for name, value in recorded(summary.get("baselines") or {}, metric, split).items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def labelled(scores: Mapping[str, float], room: float) -> list[tuple[str, float]]:
    """Labels for lines at the scores, from the lowest: baselines that are closer than ``room`` share the highest's."""
    groups: list[list[str]] = []
    for name in sorted(scores, key=lambda each: (scores[each], each)):
        if groups and scores[name] - scores[groups[-1][-1]] <= room:
            groups[-1].append(name)
        else:
            groups.append([name])
    return [(", ".join(names), scores[names[-1]]) for names in groups]
