"""What a run had reached at which cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from peftkit.compare.gather import Run, Section
from peftkit.errors import InputError, did_you_mean, listed

Array = NDArray[np.float64]

AXES = {
    "gmacs": "gmacs",
    "gmacs_with_tuning": "gmacs_with_tuning",
    "seconds": "train_seconds",
    "samples": "samples",
    "tokens": "tokens",
    "joules": "joules",
    "peak_memory": "peak_memory",
    "trainable_parameters": "trainable_parameters",
}
"""What costs are compared by, and what it is called in a run's rows."""
FIXED = ("peak_memory", "trainable_parameters")
"""Costs that are the same from the first step to the last."""


def cost(row: Any, by: str) -> float:
    """The cost of a row of evaluations, or of a summary.

    Raises:
        InputError: the run has not measured it.
    """
    costs = row.get("cost") or {}
    found: Any
    if by == "tokens":
        found = sum(row["tokens"].values()) if row.get("tokens") is not None else None
    elif by == "peak_memory":
        found = peak_memory(costs)
    else:
        found = row.get("samples") if by == "samples" else costs.get(AXES[by])
    if found is None:
        raise InputError(f"not all runs have measured {by!r}; there are {listed(_axes(row))}")
    return float(found)


def _axes(row: Any) -> list[str]:
    """What a row tells the cost of."""
    of_rows = {axis for axis in ("samples", "tokens") if row.get(axis) is not None}
    costs = row.get("cost") or {}
    memory = {"peak_memory"} if peak_memory(costs) is not None else set()
    return [axis for axis, key in AXES.items() if axis in of_rows | memory or costs.get(key) is not None]


def measures(run: Run, by: str) -> bool:
    """Whether all the run's rows, and its summary, have the cost."""
    try:
        return all(math.isfinite(cost(row, by)) for row in (*run.rows, run.summary))
    except (InputError, KeyError, TypeError):
        return False


def measured(section: Section, by: str) -> tuple[Section, tuple[str, ...]]:
    """The methods that have measured the cost, and the names of the others; all of them where none has."""
    kept = {label: of for label, of in section.runs.items() if all(measures(run, by) for run in of.values())}
    if not kept:
        return section, ()
    return replace(section, runs=kept), tuple(label for label in section.runs if label not in kept)


def lower_is_better(run: Run, metric: str) -> bool:
    """Whether less of the metric is better, as the run tells it."""
    if metric == run.summary["selects"]:
        return not run.summary["higher_is_better"]
    return metric in (*run.summary.get("lower_is_better", ()), "loss")


def peak_memory(costs: Mapping[str, Any]) -> float | None:
    """Bytes, of the device where there is one; None where that was not measured."""
    found = costs.get("peak_device_bytes") or costs.get("peak_host_bytes")
    return None if found is None else float(found)


def score(run: Run, metric: str) -> float:
    """What the checkpoint that dev selects scores on test.

    Raises:
        InputError: the run has no such metric.
    """
    test = run.summary["selected"]["test"]
    if not is_number(test.get(metric)):
        raise InputError(
            f"{run.path}: has no metric {metric!r}{did_you_mean(metric, test)}; it has {listed(sorted(test))}"
        )
    return float(test[metric])


def curve(run: Run, by: str, metric: str) -> tuple[Array, Array]:
    """The costs of the evaluations, and the test score of what dev had selected up to each; higher is better."""
    sign = 1.0 if run.summary["higher_is_better"] else -1.0
    best, reached, costs, scores = -math.inf, -math.inf, [], []
    for row in run.rows:
        test, dev = (row.get("test") or {}).get(metric), row["dev"].get(run.summary["selects"])
        if not is_number(test):
            continue  # imported results may have test at the end alone
        if is_number(dev) and sign * dev > best:
            best, reached = sign * dev, float(test)
        if best == -math.inf:
            continue  # dev has selected nothing yet
        try:
            costs.append(cost(row, by))
        except InputError as error:
            raise InputError(f"{run.path}: {error}; compare by one of these, or leave the run out") from error
        scores.append(reached)
    if not costs:
        raise InputError(f"{run.path}: no evaluation tells {metric!r} on test")
    return np.array(costs), np.array(scores)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value can be compared: what was infinite, or not a number, is null in the files."""
    return isinstance(value, int | float) and math.isfinite(value)


def reached_at(costs: Array, scores: Array, level: float) -> tuple[float, float] | None:
    """The costs of the evaluation that first reached a score and of the one before it, 0 if there is none.

    Returns:
        The cost before and the cost at which it was reached; None if it never was.
    """
    there = np.flatnonzero(scores >= level)
    if not len(there):
        return None
    first = int(there[0])
    return float(costs[first - 1]) if first else 0.0, float(costs[first])


def at(costs: Array, scores: Array, budget: float) -> float | None:
    """The score that had been reached within the budget; None if nothing was evaluated in it."""
    there = np.flatnonzero(costs <= budget * (1 + 1e-9))
    return float(scores[there[-1]]) if len(there) else None


def within(run: Run, by: str, points: tuple[Array, Array], budget: float) -> tuple[float, float] | None:
    """The score that a run had reached within a budget, and at which cost; None if nothing was evaluated in it.

    A run ends with the step that reaches its budget: what its end has reached is within it, however large that step is.

    Args:
        run: the run.
        by: the axis of costs.
        points: the run's ``curve`` along it.
        budget: what may be spent.
    """
    costs, scores = points
    there = np.flatnonzero(costs <= budget * (1 + 1e-9))
    last = len(costs) - 1 if _ended(run, by, budget) else int(there[-1]) if len(there) else None
    if last is None:
        return None
    return float(costs[np.flatnonzero(scores[: last + 1] == scores[last])[0]]), float(scores[last])


def score_within(run: Run, by: str, metric: str, budget: float) -> tuple[float, float] | None:
    """As ``within``; the selected checkpoint's score is that of the whole of test, of which the curve may be a part.

    Args:
        run: the run.
        by: the axis of costs.
        metric: what counts on test.
        budget: what may be spent.

    Raises:
        InputError: the run has no such metric, or has not measured the cost.
    """
    found = within(run, by, curve(run, by, metric), budget)
    selected = next((row for row in run.rows if row["step"] == run.summary["selected"]["step"]), None)
    if found is None or selected is None:
        return found
    inside = _ended(run, by, budget) or cost(selected, by) <= budget * (1 + 1e-9)
    return (found[0], score(run, metric)) if inside else found


def read_off(run: Run, by: str, budget: float) -> bool:
    """Whether what a run had reached within a budget is read off a longer run whose learning rate had not decayed.

    A run that ended with the budget is none, nor is one whose learning rate is constant.

    Args:
        run: the run.
        by: the axis of costs.
        budget: what may be spent.
    """
    if run.recipe.get("train", {}).get("schedule") == "constant":
        return False
    return not _ended(run, by, budget)


def _ended(run: Run, by: str, budget: float) -> bool:
    """Whether a run ended within a budget: by its own limit on that axis, or by what it took, up to one step more."""
    limit = run.recipe.get("train", {}).get("budget", {}).get(by)
    if limit is not None and limit <= budget * (1 + 1e-9):
        return True
    # A hair less than a step takes, without what was spent before the first one.
    return cost(run.rows[-1], by) <= budget * (1 + 1e-9) + step_cost(run, by) * (1 - 1e-6)


def step_cost(run: Run, by: str) -> float:
    """The mean cost of one training step; 0 where costs do not grow with steps, or no step was made."""
    steps = float(run.rows[-1]["step"])
    if by in FIXED or not steps:
        return 0.0
    return cost(run.rows[-1], "gmacs" if by == "gmacs_with_tuning" else by) / steps


def area(costs: Array, scores: Array, low: float, high: float) -> float:
    """The mean of the score over the logarithm of the cost, between two costs: a step holds until the next."""
    if high <= low:
        return float(at(costs, scores, high) or 0.0)
    edges = np.concatenate([[low], costs[(costs > low) & (costs < high)], [high]])
    values = [at(costs, scores, edge) or 0.0 for edge in edges[:-1]]
    widths = np.diff(np.log(edges))
    return float(np.dot(values, widths) / widths.sum())


def common_span(curves: Sequence[tuple[Array, Array]]) -> tuple[float, float]:
    """The costs from where every run has learnt something to where the first one ends."""
    low = max(float(costs[costs > 0][0]) for costs, _ in curves if (costs > 0).any())
    return low, min(float(costs[-1]) for costs, _ in curves)
