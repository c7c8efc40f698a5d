"""Loads the finished runs below a folder, and reports why others cannot be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from peftkit.compare.input.fairness import FIXED_SAMPLE
from peftkit.errors import InputError, comma_separated, did_you_mean
from peftkit.run_directory import RunDirectory
from peftkit.run_directory.harness_results import harness_names, read_harness_result


@dataclass(frozen=True)
class LoadedRun:
    """One finished run, as recorded in its directory."""

    path: Path
    summary: Mapping[str, Any]
    evaluations: Sequence[Mapping[str, Any]]
    """The evaluations, in order."""
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    tuning: Mapping[str, Any] | None = None
    """The sweep's ``tuning.json``; None if the run's settings were not tuned."""
    test_split: str = "test"
    """The split that stands for test: an evaluation set where runs are compared by it."""

    @property
    def default_metric(self) -> str:
        """The metric that is compared if none is named: the selection metric, or the first of a harness task."""
        values = self.summary["selected"]["test"]
        metric = str(self.summary["selection_metric"])
        return next(iter(values)) if "harness" in self.summary and metric not in values else metric

    @property
    def imported_from(self) -> str:
        """The system that the results were imported from; empty for runs of peftkit."""
        return str(self.summary.get("imported", {}).get("from", ""))

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.summary["seed"])

    @property
    def seeds(self) -> tuple[int, int, int]:
        """The seeds of (dropout and the training sample, the initialization, the order of the rows)."""
        run_table = self.recipe.get("run", {})
        return self.seed, int(run_table.get("init_seed", self.seed)), int(run_table.get("order_seed", self.seed))

    @property
    def training_sample(self) -> str:
        """How the training rows vary with the seed: ``bootstrap``, ``subset``, or not at all (``fixed``)."""
        return str(self.recipe.get("run", {}).get("resample_train") or FIXED_SAMPLE)

    @property
    def task_and_model(self) -> tuple[str, str]:
        """The task, with its subset if it has any, and the model; only runs that share both are compared."""
        subset = self.recipe.get("task", {}).get("subset")
        return "/".join(filter(None, (self.summary["task"], subset))), self.summary["model"]


def compare_by_set(run: LoadedRun, name: str) -> LoadedRun:
    """Return a run whose scores on an evaluation set or a harness task stand for those on test.

    Args:
        run: The run.
        name: The name of the set or task.

    Raises:
        InputError: The run was not evaluated on it.
    """
    if name in harness_names(run.path):
        run = _with_harness_task(run, name)
    known = [*run.summary.get("evaluation_sets", []), *harness_names(run.path)]
    if name not in known:
        has = f"it has {comma_separated(known)}" if known else "it has none"
        raise InputError(f"{run.path}: has no evaluation set {name!r}{did_you_mean(name, known)}; {has}")

    def by_set(row: Mapping[str, Any]) -> dict[str, Any]:
        return {**row, "test": row.get(name)}

    selected = by_set(run.summary["selected"])
    baselines = {key: by_set(values) for key, values in run.summary.get("baselines", {}).items()}
    evaluated = {key: by_set(values) for key, values in run.summary.get("rows_evaluated", {}).items()}
    evaluations = [by_set(row) for row in run.evaluations]
    if not any(row["test"] for row in evaluations):  # evaluated at the end only: the score since the selected step
        later = [row for row in evaluations if row["step"] >= selected["step"]]
        for row in later:
            row["test"] = selected["test"]
    summary = {**run.summary, "selected": selected, "baselines": baselines, "rows_evaluated": evaluated}
    return replace(run, summary=summary, evaluations=evaluations, test_split=name)


def _with_harness_task(run: LoadedRun, name: str) -> LoadedRun:
    """Return a run that was evaluated on a harness task as on an evaluation set, at the end only."""
    result, summary = read_harness_result(run.path, name), run.summary
    added: dict[str, dict[str, Any]] = {
        "selected": {name: result["values"]},
        "rows": {name: result["num_examples"]},
        "rows_digests": {name: result["rows_digest"]},
    }
    merged = {key: {**summary.get(key, {}), **value} for key, value in added.items()}
    lists = {"evaluation_sets": [name], "lower_is_better": result["lower_is_better"]}
    joined = {key: [*summary.get(key, ()), *value] for key, value in lists.items()}
    return replace(run, summary={**summary, **merged, **joined, "harness": result["settings"]})


def find_runs(paths: Iterable[Path]) -> tuple[list[LoadedRun], list[str]]:
    """Load the finished runs at or below the paths, each once.

    Returns:
        The runs, and one message for each run directory that cannot be compared.

    Raises:
        InputError: A path does not exist, or there is no finished run at or below any of them.
    """
    paths = [*paths]
    runs: list[LoadedRun] = []
    problems = []
    for folder in run_folders(paths):
        try:
            runs.append(read_run(folder))
        except InputError as error:
            problems.append(str(error))
    if not runs:
        raise InputError("\n".join([f"no finished runs in {comma_separated([*map(str, paths)])}", *problems]))
    return runs, problems


def run_folders(paths: Iterable[Path]) -> list[Path]:
    """List the run directories at or below the paths, each once.

    The trials of a sweep are left out unless a path is a trial's own directory.

    Raises:
        InputError: A path does not exist.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path}: no such folder")
        is_run = (path / "recipe.toml").is_file()
        below = sorted(file.parent for file in path.rglob("recipe.toml"))
        for folder in [path] if is_run else [each for each in below if not _is_trial(each, path)]:
            folders.setdefault(folder.resolve(), folder)
    return [*folders.values()]


def _is_trial(folder: Path, top: Path) -> bool:
    """Whether a run is a trial of a sweep's tuning, which is used to choose settings and is not a result."""
    above = [parent for parent in folder.parents if parent == top or top in parent.parents]
    return any(parent.name == "trials" and (parent.parent / "sweep.json").is_file() for parent in above)


class _Selected(BaseModel):
    step: float
    test: dict[str, Any]


class _Summary(BaseModel):
    task: str
    model: str
    method: str
    seed: int
    selection_metric: str
    higher_is_better: bool
    selected: _Selected
    cost: dict[str, Any]


class _Evaluation(BaseModel):
    step: float
    cost: dict[str, Any]
    dev: dict[str, Any]
    test: dict[str, Any] | None = None
    tokens: dict[str, float] = {}


class _Tuning(BaseModel):
    trials: int
    gmacs: float


class _Environment(BaseModel):
    packages: dict[str, Any] = {}
    plugins: dict[str, Any] = {}
    hardware: dict[str, Any] = {}


class _Environments(_Environment):
    resumed: list[_Environment] = []


class _RunFiles(BaseModel):
    """The parts of a run directory that comparisons read; further keys are allowed."""

    summary: _Summary
    evaluations: list[_Evaluation] = Field(min_length=1)
    recipe: dict[Literal["method"], dict[str, Any]] = Field(min_length=1)
    tuning: _Tuning | None
    environment: _Environments


def read_run(path: Path) -> LoadedRun:
    """Load the finished run in a folder.

    Raises:
        InputError: The run is not finished, or lacks a value that comparisons need.
    """
    directory = RunDirectory(path)
    summary = directory.summary()
    if summary.get("status") != "done":
        raise InputError(f"{path}: the run is {summary.get('status')}, not done: {summary.get('error', '')}")
    is_tuned = (path.parent / "tuning.json").is_file()
    tuning = RunDirectory(path.parent).read_json("tuning.json") if is_tuned else None
    if tuning and tuning.get("superseded"):
        raise InputError(f"{path}: its settings were replaced by a later tuning of its sweep")
    run = LoadedRun(path, summary, directory.evaluations(), directory.recipe(), directory.environment(), tuning)
    method = {key: value for key, value in run.recipe.items() if key == "method"}
    try:
        _RunFiles.model_validate(
            {
                "summary": summary,
                "evaluations": run.evaluations,
                "recipe": method,
                "tuning": tuning,
                "environment": run.environment,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {key}: {first['msg']}") from error
    if summary["selected"]["test"].get(summary["selection_metric"], 0.0) is None:
        raise InputError(f"{path}: its {summary['selection_metric']} on test is not a finite number")
    return _with_tuning_cost(run)


def _with_tuning_cost(run: LoadedRun) -> LoadedRun:
    """Add ``gmacs_with_tuning`` to every row's costs: the row's GMACs plus those of all trials, the head's included."""
    if run.tuning is None:
        return run
    tuning_gmacs = float(run.tuning["gmacs"]) + float((run.tuning.get("head") or {}).get("gmacs", 0.0))

    def with_tuning(row: Mapping[str, Any]) -> Mapping[str, Any]:
        gmacs = row["cost"].get("gmacs")
        return row if gmacs is None else {**row, "cost": {**row["cost"], "gmacs_with_tuning": gmacs + tuning_gmacs}}

    return replace(run, summary=with_tuning(run.summary), evaluations=[with_tuning(row) for row in run.evaluations])
