"""Scores of a run as a function of its cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np

from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.statistics.observations import Array
from peftkit.errors import InputError, comma_separated, did_you_mean

LAST_STEP = "last step"
"""The name of the score of the last step, beside that of the selected one."""
AXES = {
    "gmacs": "gmacs",
    "gmacs_with_tuning": "gmacs_with_tuning",
    "seconds": "train_seconds",
    "wall_seconds": "wall_seconds",
    "samples": "samples",
    "tokens": "tokens",
    "joules": "joules",
    "peak_memory": "peak_memory",
    "trainable_parameters": "trainable_parameters",
}
"""Cost axes, with the key of each in the costs of a run's rows."""
FIXED_COSTS = ("peak_memory", "trainable_parameters")
"""Costs that do not grow during training."""


def check_axis(axis: str, known: Iterable[str] = AXES) -> None:
    """Check the name of a cost axis.

    Args:
        axis: The name.
        known: The names that are allowed.

    Raises:
        InputError: There is no such axis.
    """
    names = [*known]
    if axis not in names:
        raise InputError(f"no cost is called {axis!r}{did_you_mean(axis, names)}; known are {comma_separated(names)}")


def cost(row: Any, axis: str) -> float:
    """The cost in a row of evaluations, or in a summary.

    Args:
        row: The row or summary.
        axis: The cost axis.

    Raises:
        InputError: The run has not measured it.
    """
    costs = row.get("cost") or {}
    value: Any
    if axis == "tokens":
        value = sum(row["tokens"].values()) if row.get("tokens") is not None else None
    elif axis == "peak_memory":
        value = peak_memory(costs)
    else:
        value = row.get("samples") if axis == "samples" else costs.get(AXES[axis])
    if value is None:
        raise InputError(f"not all runs have measured {axis!r}; measured are {comma_separated(_measured_axes(row))}")
    return float(value)


def _measured_axes(row: Any) -> list[str]:
    counts = {axis for axis in ("samples", "tokens") if row.get(axis) is not None}
    costs = row.get("cost") or {}
    memory = {"peak_memory"} if peak_memory(costs) is not None else set()
    return [axis for axis, key in AXES.items() if axis in counts | memory or costs.get(key) is not None]


def has_cost(run: LoadedRun, axis: str) -> bool:
    """Whether all rows and the summary of a run have a finite cost.

    Args:
        run: The run.
        axis: The cost axis.
    """
    try:
        return all(math.isfinite(cost(row, axis)) for row in (*run.evaluations, run.summary))
    except (InputError, KeyError, TypeError):
        return False


def keep_measured(run_group: RunGroup, axis: str) -> tuple[RunGroup, tuple[str, ...]]:
    """Drop the methods with runs that have not measured a cost.

    Args:
        run_group: The runs.
        axis: The cost axis.

    Returns:
        The remaining methods and the labels of the dropped ones. If no method has measured it, none is dropped.
    """
    kept = {label: runs for label, runs in run_group.runs.items() if all(has_cost(run, axis) for run in runs.values())}
    if not kept:
        return run_group, ()
    return replace(run_group, runs=kept), tuple(label for label in run_group.runs if label not in kept)


def lower_is_better(run: LoadedRun, metric: str) -> bool:
    """Whether lower values of a metric are better, as recorded by the run.

    Args:
        run: The run.
        metric: The metric.
    """
    if metric == run.summary["selection_metric"]:
        return not run.summary["higher_is_better"]
    return metric in (*run.summary.get("lower_is_better", ()), "loss")


def peak_memory(costs: Mapping[str, Any]) -> float | None:
    """Peak memory in bytes, of the accelerator if there was one; None if not measured."""
    peak = costs.get("peak_device_bytes") or costs.get("peak_host_bytes")
    return None if peak is None else float(peak)


def selected_score(run: LoadedRun, metric: str) -> float:
    """The test score of the checkpoint selected on dev.

    Args:
        run: The run.
        metric: The metric.

    Raises:
        InputError: The run has no such metric.
    """
    test = run.summary["selected"]["test"]
    if not is_number(test.get(metric)):
        raise InputError(
            f"{run.path}: no metric {metric!r}{did_you_mean(metric, test)}; available: {comma_separated(sorted(test))}"
        )
    return float(test[metric])


def mean_set_scores(runs: Iterable[LoadedRun], metric: str) -> dict[str, float]:
    """The mean score of the selected checkpoints of runs on each evaluation set that all of them have.

    Args:
        runs: The runs.
        metric: The metric.
    """
    tables = [
        {name: values.get(metric) for name in run.summary.get("evaluation_sets", ()) if (values := selected.get(name))}
        for run in runs
        for selected in [run.summary["selected"]]
    ]
    common = [name for name in tables[0] if all(is_number(table.get(name)) for table in tables)] if tables else []
    return {name: sum(float(table[name]) for table in tables) / len(tables) for name in common}


def mean_values_beside(runs: Iterable[LoadedRun], metric: str) -> dict[str, float]:
    """The means of the values that are shown beside a score, where all runs have them.

    They are those without which the score would mislead, such as the share of answers that could not be extracted, and
    the score of the last step, where the task asks for it.

    Args:
        runs: The runs.
        metric: The metric.
    """
    tables = []
    for run in runs:
        test, last = run.summary["selected"]["test"], run.summary.get("last_step") or {}
        names = run.summary.get("companions", {}).get(metric, ())
        tables.append({name: test.get(name) for name in names} | {LAST_STEP: last.get(run.test_split, {}).get(metric)})
    common = [name for name in tables[0] if all(is_number(table.get(name)) for table in tables)] if tables else []
    return {name: sum(float(table[name]) for table in tables) / len(tables) for name in common}


def learning_curve(run: LoadedRun, axis: str, metric: str) -> tuple[Array, Array]:
    """The learning curve: at each evaluation, the test score of the best checkpoint on dev so far.

    Args:
        run: The run.
        axis: The cost axis.
        metric: The metric on test.

    Returns:
        The costs and the scores, both of shape (evaluations,).

    Raises:
        InputError: The run has not measured the cost, or no evaluation has the metric.
    """
    sign = 1.0 if run.summary["higher_is_better"] else -1.0
    best, selected, costs, scores = -math.inf, -math.inf, [], []
    for row in run.evaluations:
        test, dev = (row.get("test") or {}).get(metric), row["dev"].get(run.summary["selection_metric"])
        if not is_number(test):
            continue  # imported results may have a test score at the end only
        if is_number(dev) and sign * dev > best:
            best, selected = sign * dev, float(test)
        if best == -math.inf:
            continue  # no dev score yet to select by
        try:
            costs.append(cost(row, axis))
        except InputError as error:
            raise InputError(f"{run.path}: {error}; compare by one of these, or leave the run out") from error
        scores.append(selected)
    if not costs:
        raise InputError(f"{run.path}: no evaluation has {metric!r} on test")
    return np.array(costs), np.array(scores)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a recorded value is a finite number; infinities and NaN are stored as null."""
    return isinstance(value, int | float) and math.isfinite(value)


def reached_at(costs: Array, scores: Array, level: float) -> tuple[float, float] | None:
    """When a learning curve first reached a score.

    Args:
        costs: Costs of the evaluations, of shape (evaluations,).
        scores: Their scores, of shape (evaluations,), higher is better.
        level: The score to reach.

    Returns:
        The costs of the evaluation before (0 if there is none) and of the one that reached it; None if none did.
    """
    at_level = np.flatnonzero(scores >= level)
    if not len(at_level):
        return None
    first = int(at_level[0])
    return float(costs[first - 1]) if first else 0.0, float(costs[first])


def score_at(costs: Array, scores: Array, budget: float) -> float | None:
    """The score of the last evaluation within a budget; None if there is none.

    Args:
        costs: Costs of the evaluations, of shape (evaluations,).
        scores: Their scores, of shape (evaluations,).
        budget: The most that may be spent.
    """
    within = np.flatnonzero(costs <= budget * (1 + 1e-9))
    return float(scores[within[-1]]) if len(within) else None


def point_within_budget(
    run: LoadedRun, axis: str, points: tuple[Array, Array], budget: float
) -> tuple[float, float] | None:
    """The score that a run reached within a budget, and the cost at which it first had it.

    A run ends with the step that reaches its budget, so its last evaluation counts as within it, however large that
    step is.

    Args:
        run: The run.
        axis: The cost axis.
        points: The run's ``learning_curve``.
        budget: The most that may be spent.

    Returns:
        The cost and the score; None if there was no evaluation within the budget.
    """
    costs, scores = points
    within = np.flatnonzero(costs <= budget * (1 + 1e-9))
    last = len(costs) - 1 if _ended_within(run, axis, budget) else int(within[-1]) if len(within) else None
    if last is None:
        return None
    return float(costs[np.flatnonzero(scores[: last + 1] == scores[last])[0]]), float(scores[last])


def score_within_budget(run: LoadedRun, axis: str, metric: str, budget: float) -> tuple[float, float] | None:
    """Like ``point_within_budget``, but with the final score of the selected checkpoint if it is within the budget.

    The final score is of the whole test split, while the curve may use a part of it.

    Args:
        run: The run.
        axis: The cost axis.
        metric: The metric on test.
        budget: The most that may be spent.

    Returns:
        The cost and the score; None if there was no evaluation within the budget.

    Raises:
        InputError: The run does not have the metric, or has not measured the cost.
    """
    point = point_within_budget(run, axis, learning_curve(run, axis, metric), budget)
    selected = next((row for row in run.evaluations if row["step"] == run.summary["selected"]["step"]), None)
    if point is None or selected is None:
        return point
    is_within = _ended_within(run, axis, budget) or cost(selected, axis) <= budget * (1 + 1e-9)
    return (point[0], selected_score(run, metric)) if is_within else point


def within_budget(run: LoadedRun, axis: str, budget: float) -> list[Mapping[str, Any]]:
    """The evaluations of a run within a budget; all of a run that ended within it.

    Args:
        run: The run.
        axis: The cost axis.
        budget: The most that may be spent.
    """
    if not has_cost(run, axis):
        return []
    if _ended_within(run, axis, budget):
        return [*run.evaluations]
    return [row for row in run.evaluations if cost(row, axis) <= budget * (1 + 1e-9)]


def selected_row(run: LoadedRun, axis: str, budget: float) -> Mapping[str, Any] | None:
    """The evaluation within a budget that dev selects; None if there is none.

    Args:
        run: The run.
        axis: The cost axis.
        budget: The most that may be spent.
    """
    sign = 1.0 if run.summary["higher_is_better"] else -1.0
    scored = [
        (sign * value, row)
        for row in within_budget(run, axis, budget)
        if is_number(value := row["dev"].get(run.summary["selection_metric"]))
    ]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def uses_longer_run(run: LoadedRun, axis: str, budget: float) -> bool:
    """Whether a score within a budget is taken from a longer run, whose learning rate had not decayed yet.

    This is not so for runs that end within the budget or have a constant learning rate.

    Args:
        run: The run.
        axis: The cost axis.
        budget: The most that may be spent.
    """
    if run.recipe.get("train", {}).get("schedule") == "constant":
        return False
    return not _ended_within(run, axis, budget)


def _ended_within(run: LoadedRun, axis: str, budget: float) -> bool:
    """Whether a run ended within a budget, by its own limit on that axis or by its cost up to one further step."""
    limit = run.recipe.get("train", {}).get("budget", {}).get(axis)
    if limit is not None and limit <= budget * (1 + 1e-9):
        return True
    # Slightly less than one step, without what was spent before the first.
    return cost(run.evaluations[-1], axis) <= budget * (1 + 1e-9) + step_cost(run, axis) * (1 - 1e-6)


def step_cost(run: LoadedRun, axis: str) -> float:
    """The mean cost of a training step; 0 for costs that do not grow during training, or without any step.

    Args:
        run: The run.
        axis: The cost axis.
    """
    steps = float(run.evaluations[-1]["step"])
    if axis in FIXED_COSTS or not steps:
        return 0.0
    per_step = {"gmacs_with_tuning": "gmacs", "wall_seconds": "seconds"}  # not what is spent beside the steps
    return cost(run.evaluations[-1], per_step.get(axis, axis)) / steps


def area_under_curve(costs: Array, scores: Array, low: float, high: float) -> float:
    """The normalized area under a learning curve: the mean score over the logarithm of the cost.

    The curve is a step function: a score holds until the next evaluation.

    Args:
        costs: Costs of the evaluations, of shape (evaluations,).
        scores: Their scores, of shape (evaluations,).
        low: The cost to start from.
        high: The cost to end at.
    """
    if high <= low:
        return float(score_at(costs, scores, high) or 0.0)
    edges = np.concatenate([[low], costs[(costs > low) & (costs < high)], [high]])
    values = [score_at(costs, scores, edge) or 0.0 for edge in edges[:-1]]
    lengths = np.diff(np.log(edges))
    return float(np.dot(values, lengths) / lengths.sum())


def common_span(curves: Sequence[tuple[Array, Array]]) -> tuple[float, float]:
    """The range of costs that all curves cover: from the latest first evaluation after a step to the earliest end."""
    low = max(float(costs[costs > 0][0]) for costs, _ in curves if (costs > 0).any())
    return low, min(float(costs[-1]) for costs, _ in curves)


def checkpoint_bytes(run: LoadedRun) -> float | None:
    """Return the size of a run's saved model in bytes; for imported results that of its weights, if they have it."""
    size = run.summary.get("model_bytes") or run.summary["cost"].get("checkpoint_bytes")
    return None if size is None else float(size)
