"""Draws what methods forget on a probe: against cost, and against what they learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peftkit.compare.comparison import Comparison
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.learning_curves import cost, is_number
from peftkit.compare.output.figure_style import MARKERS, NAMES, line_look, subplots
from peftkit.compare.retention.forgetting import forgetting_curve, is_relative


def common_probes(group: RunGroup) -> list[str]:
    """Return the names of the probes that all runs of a group have.

    Args:
        group: the runs.
    """
    tables = [run.summary.get("probes") or {} for runs in group.runs.values() for run in runs.values()]
    return [name for name in tables[0] if all(name in table for table in tables)] if tables else []


def draw_forgetting(group: RunGroup, comparison: Comparison, chosen: Sequence[str], probe: str) -> Any:
    """Draw what is forgotten against cost, and what is learned against it, along the curves of runs.

    Lines are means over seeds, and bands and bars go from the lowest to the highest seed. Both panels show each
    evaluation, not the best one so far.

    Args:
        group: the runs.
        comparison: their comparison.
        chosen: the methods to draw.
        probe: the name of the probe.

    Returns:
        A matplotlib figure.
    """
    runs = [run for label in chosen for run in group.runs[label].values()]
    relative = is_relative(runs, probe)
    figure, (left, right) = subplots(1, 2, figsize=(8.7, 3.6))
    for index, label in enumerate(chosen):
        points = [_points(run, comparison, probe, relative=relative) for run in group.runs[label].values()]
        shortest = min(map(len, points))
        if not shortest:
            continue
        # Of shape (seeds, evaluations, 3): cost, forgotten and score.
        values = np.array([each[:shortest] for each in points])
        (costs, forgotten, scores), look = np.moveaxis(values.mean(0), -1, 0), line_look(index)
        marker = MARKERS[index % len(MARKERS)]
        left.plot(costs, forgotten, marker=marker, markersize=3, label=label, **look)
        right.plot(forgotten, scores, marker=marker, markersize=3, **look)
        right.scatter(forgotten[-1:], scores[-1:], marker=marker, s=45, color=look["color"])
        if len(values) > 1:
            low, high = values.min(0), values.max(0)
            left.fill_between(costs, low[:, 1], high[:, 1], alpha=0.12, color=look["color"], linewidth=0)
            bars = {"xerr": [forgotten - low[:, 1], high[:, 1] - forgotten]}
            bars["yerr"] = [scores - low[:, 2], high[:, 2] - scores]
            right.errorbar(forgotten, scores, **bars, fmt="none", alpha=0.25, ecolor=look["color"])
    name = f"forgotten on {probe} ({'% of the base' if relative else 'points'})"
    left.axhline(0, color="#555555", linewidth=0.7)
    right.axvline(0, color="#555555", linewidth=0.7)
    left.set(xlabel=NAMES.get(comparison.by, comparison.by), ylabel=name)
    right.set(xlabel=name, ylabel=f"{group.test_split} {comparison.metric}")
    figure.legend(loc="outside right center", fontsize=8)
    figure.suptitle(f"{comparison.task} with {comparison.model}: learning and forgetting", fontsize=10)
    return figure


def _points(run: LoadedRun, comparison: Comparison, probe: str, *, relative: bool) -> list[tuple[float, float, float]]:
    """Cost, what is forgotten in percent or points, and the test score of each evaluation of a run."""
    return [
        (cost(row, comparison.by), 100 * forgotten, float(row["test"][comparison.metric]))
        for row, forgotten in forgetting_curve(run, probe, relative=relative)
        if is_number((row.get("test") or {}).get(comparison.metric))
    ]
