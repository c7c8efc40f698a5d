"""Reads how far the runs of a folder or a sweep are, while they train. Nothing is written."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.compare.input.load_runs import run_folders
from peftkit.compare.learning_curves import is_number
from peftkit.compare.run_curve import default_metric
from peftkit.errors import InputError
from peftkit.json_files import read_json
from peftkit.run_directory import RunDirectory
from peftkit.run_directory.lock import is_locked

SWEEP = "sweep.json"
LOWER_IS_BETTER = ("loss", "perplexity")
"""Metrics of which lower values are better, until a summary says which ones those of the run are."""
BUDGETS: Mapping[str, tuple[str, ...]] = {
    "steps": ("step",),
    "samples": ("samples",),
    "epochs": ("epoch",),
    "seconds": ("cost", "train_seconds"),
    "wall_seconds": ("cost", "wall_seconds"),
    "gmacs": ("cost", "gmacs"),
    "joules": ("cost", "joules"),
}
"""Where a row of ``evaluations.jsonl`` has what a limit of the budget limits."""


@dataclass(frozen=True)
class RunProgress:
    """How far one run is."""

    path: Path
    method: str
    task: str
    model: str
    seed: int | None
    status: str
    """``done``, ``failed``, ``interrupted``, ``diverged`` or ``running``; ``stopped`` if it was killed."""
    share: float
    """The used share of the budget at the latest evaluation."""
    metric: str | None
    higher_is_better: bool
    score: float | None
    """The best score on dev so far."""
    step: int | None
    """The step of that score."""
    seconds: float
    """Since its start, as long as it runs; in all, once it has ended."""

    @property
    def seconds_left(self) -> float | None:
        """The time left at the speed so far; None before the first evaluation."""
        if self.status != "running":
            return 0.0
        return self.seconds / self.share * (1 - self.share) if self.share > 0 else None

    def is_better_than(self, other: RunProgress) -> bool:
        """Whether its score is better than that of another run by the same metric.

        Args:
            other: The other run.
        """
        if self.score is None or other.score is None:
            return other.score is None and self.score is not None
        return self.score > other.score if self.higher_is_better else self.score < other.score


@dataclass(frozen=True)
class FolderProgress:
    """How far the runs of a folder are."""

    path: Path
    name: str
    runs: Sequence[RunProgress]
    """The runs that have started, without the trials of a sweep."""
    total: int
    """Runs in all: those of the sweep, or those that have started."""
    is_active: bool
    """Whether something runs, or is yet to run."""
    trials_done: int = 0
    """Finished trials of a sweep's tuning."""

    def count(self, status: str) -> int:
        """The number of runs of a status."""
        return sum(run.status == status for run in self.runs)

    @property
    def seconds_left(self) -> float | None:
        """An estimate of the time left; None while it is unknown how long a run takes.

        Runs that have not started take as long as the mean of the others, as many at a time as run now. The trials of
        a sweep's tuning that are still to come are not part of it.
        """
        if not self.is_active:
            return 0.0
        running = [run for run in self.runs if run.status == "running"]
        lengths = [run.seconds for run in self.runs if run.status == "done"]
        lengths += [run.seconds / run.share for run in running if run.share > 0]
        if not lengths:
            return None
        mean = sum(lengths) / len(lengths)
        left = [mean if run.seconds_left is None else run.seconds_left for run in running]
        work = sum(left) + mean * max(0, self.total - len(self.runs))
        return max(work / max(1, len(running)), *left, 0.0)

    def best(self) -> list[RunProgress]:
        """The best run so far of each task and model, by its selection metric on dev."""
        best: dict[tuple[str, str], RunProgress] = {}
        for run in self.runs:
            key = run.task, run.model
            if run.score is not None and (key not in best or run.is_better_than(best[key])):
                best[key] = run
        return [*best.values()]


def read_progress(folder: Path, metric: str | None = None) -> FolderProgress:
    """Read the progress of the runs at or below a folder.

    Args:
        folder: A run directory, the folder of a sweep, or any folder of runs.
        metric: The metric of the scores; None for each run's own.

    Raises:
        InputError: The folder does not exist, or is neither a sweep nor holds a run.
    """
    runs = [_read_run(path, metric) for path in run_folders([folder])]
    if (folder / SWEEP).is_file():
        return _sweep_progress(folder, runs)
    if not runs:
        raise InputError(f"{folder}: there is no run in it, and it is no sweep's folder")
    active = any(run.status == "running" for run in runs)
    return FolderProgress(folder, folder.name, runs, len(runs), active)


def _sweep_progress(folder: Path, runs: Sequence[RunProgress]) -> FolderProgress:
    sweep = read_json(folder / SWEEP)
    total = sum(len(study["seeds"]) for study in sweep.get("studies", ()))
    latest: dict[Path, RunProgress] = {}
    for run in runs:  # sorted by time within their folder: the last attempt counts, but for one that is done
        place = run.path.parent
        if place not in latest or latest[place].status != "done":
            latest[place] = run
    runs = [run for run in latest.values() if not _is_superseded(run.path)]
    running = any(run.status == "running" for run in runs)
    locked = is_locked(folder)
    missing = total - sum(run.status != "running" for run in runs)
    if locked is None or not (folder / ".lock").exists():  # unknown, or the jobs of a cluster
        locked = missing > 0
    trials = sum(RunDirectory(file.parent).finished for file in folder.glob("trials/**/summary.json"))
    name = str(sweep.get("name", folder.name))
    return FolderProgress(folder, name, runs, max(total, len(runs)), running or locked, trials)


def _is_superseded(run: Path) -> bool:
    try:
        return bool(read_json(run.parent / "tuning.json").get("superseded"))
    except InputError:
        return False


def _read_run(path: Path, metric: str | None) -> RunProgress:
    run = RunDirectory(path)
    recipe: Mapping[str, Any] = {}
    with suppress(InputError):
        recipe = run.recipe()
    rows: Sequence[Mapping[str, Any]] = []
    with suppress(InputError):  # before the first evaluation, or while a line is being written
        rows = run.evaluations()
    summary: Mapping[str, Any] = {}
    with suppress(InputError):
        summary = run.summary()
    status = str(summary.get("status", "running"))
    locked = is_locked(path)
    if status == "running" and locked is False:
        status = "stopped"
    elif status in ("interrupted", "failed") and locked:  # it was resumed
        status = "running"
    metric = metric or summary.get("selection_metric") or default_metric(rows)
    higher = metric not in summary.get("lower_is_better", LOWER_IS_BETTER)
    scores = [(row["dev"][metric], row["step"]) for row in rows if is_number((row.get("dev") or {}).get(metric))]
    score, step = (max if higher else min)(scores, key=lambda pair: pair[0], default=(None, None))
    method, task, model = (str(recipe.get(table, {}).get("name", "?")) for table in ("method", "task", "model"))
    return RunProgress(
        path=path,
        method=method,
        task=task,
        model=model,
        seed=recipe.get("run", {}).get("seed"),
        status=status,
        share=1.0 if status == "done" else _share(recipe, rows[-1] if rows else {}),
        metric=metric,
        higher_is_better=higher,
        score=score,
        step=step,
        seconds=_seconds(path, summary if status != "running" else {}),
    )


def _share(recipe: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """The used share of the budget: of the limit that is nearest."""
    shares = [0.0]
    for key, limit in (recipe.get("train", {}).get("budget") or {}).items():
        used: Any = sum(row.get("tokens", {}).values()) if key == "tokens" else row
        for name in BUDGETS.get(key, ()):
            used = used.get(name, {}) if isinstance(used, Mapping) else used
        if is_number(used) and is_number(limit) and limit > 0:
            shares.append(used / limit)
    return min(1.0, max(shares))


def _seconds(path: Path, summary: Mapping[str, Any]) -> float:
    if is_number(summary.get("wall_seconds")):
        return float(summary["wall_seconds"])
    start = math.inf
    for name in ("recipe.toml", "environment.json"):
        with suppress(OSError):
            start = min(start, (path / name).stat().st_mtime)
    return max(0.0, time.time() - start) if math.isfinite(start) and not summary else 0.0
