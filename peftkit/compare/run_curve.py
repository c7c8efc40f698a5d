"""Reads the learning curve of one run, also while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from peftkit.compare.learning_curves import cost, is_number
from peftkit.compare.recorded_baselines import recorded_baselines
from peftkit.errors import InputError
from peftkit.run_directory import RunDirectory

SPLITS = ("train", "dev", "test")
Points = Sequence[tuple[float, float]]
"""Cost and score of each evaluation."""


@dataclass(frozen=True)
class RunCurve:
    """The scores of a run so far."""

    metric: str | None = None
    lines: Mapping[str, Points] = field(default_factory=dict)
    """Cost and score of each evaluation, by split."""
    baselines: Mapping[str, float] = field(default_factory=dict)
    """Scores of input-blind baselines on ``baseline_split``."""
    baseline_split: str = "dev"
    step: int | None = None
    """Of the latest evaluation; None before the first one."""


def read_run_curve(run: RunDirectory, by: str, metric: str | None = None) -> RunCurve:
    """Read the scores of a run.

    Args:
        run: The run directory.
        by: The cost axis.
        metric: The metric; None for accuracy, or the first one.

    Raises:
        InputError: The run has measured neither the cost nor the metric.
    """
    rows: Sequence[dict[str, Any]] = []
    with suppress(InputError):  # before the first evaluation, or while a line is being written
        rows = run.evaluations()
    if not rows:
        return RunCurve(metric)
    known = _metrics(rows)
    metric = metric or default_metric(rows)
    sets = [key for row in rows for key, values in row.items() if isinstance(values, Mapping) and metric in values]
    lines = {
        split: [
            (cost(row, by), float(row[split][metric])) for row in rows if is_number((row.get(split) or {}).get(metric))
        ]
        for split in dict.fromkeys((*SPLITS, *sets))
    }
    lines = {split: points for split, points in lines.items() if points}
    if not lines and metric not in known:
        raise InputError(f"{run.path}: no metric is called {metric!r}; the run has {', '.join(known)}")
    split = "test" if "test" in lines else "dev"
    return RunCurve(metric, lines, recorded_baselines(run.baselines(), metric, split), split, rows[-1]["step"])


def default_metric(rows: Sequence[Mapping[str, Any]]) -> str:
    """The metric that is shown unless another is asked for: accuracy, or the first one on dev.

    Args:
        rows: The evaluations of a run.
    """
    known = _metrics(rows)
    return "accuracy" if "accuracy" in known else next((key for key in known if key != "loss"), "loss")


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({key for row in rows for key in row.get("dev") or {}})
