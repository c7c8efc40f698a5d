"""Run directories → runs that may be compared, by task and model, or the reasons why they may not."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from peftkit.errors import InputError
from peftkit.runs import RunDirectory

UNFAIR: Mapping[str, Callable[[Run], Mapping[str, Any]]]


WHERE_TOLD = ("rows_digests.", "plugins.")
"""Keys that are compared among the runs that have them: older ones tell of no rows, and no run uses every plugin."""


@dataclass(frozen=True)
class Run:
    """One finished run, as its directory tells it."""

    path: Path
    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    """The evaluations, in their order."""
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    tuning: Mapping[str, Any] | None = None
    """What a sweep has tried to find the run's settings; None if nothing was."""

    @property
    def imported(self) -> str:
        """The system whose results these are; empty for runs of peftkit."""
        return str(self.summary.get("imported", {}).get("from", ""))

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.summary["seed"])

    @property
    def section(self) -> tuple[str, str]:
        """What is compared with what: the task and the model."""
        return self.summary["task"], self.summary["model"]


@dataclass(frozen=True)
class Section:
    """Runs of one task with one model, by the method's label and the seed."""

    task: str
    model: str
    runs: Mapping[str, Mapping[int, Run]]
    pooled: Mapping[str, Sequence[str]]
    """What differs among them and was allowed to, with the values."""
    repeats: tuple[tuple[Run, ...], ...] = ()
    """Runs of the very same recipe: the first of each counts, all of them tell how much runs alike differ."""


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The finished runs at or below the paths, each once, and what is wrong with the others.

    Raises:
        InputError: a path is not there, or no finished run lies at or below any.
    """
    runs: dict[Path, Run] = {}
    problems = []
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path}: there is no such folder")
        own = (path / "recipe.toml").is_file()
        folders = [path] if own else sorted(file.parent for file in path.rglob("recipe.toml"))
        for folder in folders:
            if not own and _of_a_trial(folder, path):
                continue
            if folder.resolve() in runs:
                continue
            try:
                runs[folder.resolve()] = _read(folder)
            except InputError as error:
                problems.append(str(error))
    if not runs:
        raise InputError("\n".join(["there is no finished run", *problems]))
    return [*runs.values()], problems


def sections(runs: Iterable[Run], pool: Sequence[str] = ()) -> list[Section]:
    """The runs by task and model, each of one kind but for its method and its seed.

    Args:
        runs: what ``find_runs`` has found.
        pool: what may differ (see ``UNFAIR``).

    Raises:
        InputError: runs of one section differ in what was not allowed, or two of one method and seed in anything.
    """
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.section].append(run)
    return [_section(*key, group, pool) for key, group in sorted(groups.items())]


def _section(task: str, model: str, runs: Sequence[Run], pool: Sequence[str]) -> Section:
    differing = {name: _differences([dict(what(run)) for run in runs]) for name, what in UNFAIR.items()}
    differing = {name: found for name, found in differing.items() if found}
    refused = {name: found for name, found in differing.items() if name not in pool}
    if refused:
        lines = [f"{name}: {text}" for name, found in refused.items() for text in found[:5]]
        allowed = " ".join(f"--pool {name}" for name in refused)
        head = f"the runs of {task!r} with {model!r} are not of one kind, and would not be compared fairly"
        raise InputError("\n".join([head, *lines, f"leave some out, or compare them all the same: {allowed}"]))
    labels = _labels(runs)
    alike: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run, label in zip(runs, labels, strict=True):
        alike[label, run.seed].append(run)
    found: dict[str, dict[int, Run]] = defaultdict(dict)
    for (label, seed), of in alike.items():
        different = _differences([_what_was_run(run) for run in of])
        if different:
            raise InputError(
                f"{of[0].path} and {of[-1].path} are of one method and seed, and differ: {'; '.join(different[:5])}; "
                "leave one out"
            )
        found[label][seed] = of[0]
    repeats = tuple(tuple(of) for of in alike.values() if len(of) > 1)
    return Section(task, model, dict(found), differing, repeats)


def _of_a_trial(folder: Path, top: Path) -> bool:
    """Whether a run was tried for a sweep's tuning: it is chosen by dev, and is no result."""
    above = [parent for parent in folder.parents if parent == top or top in parent.parents]
    return any(parent.name == "trials" and (parent.parent / "sweep.json").is_file() for parent in above)


def _what_was_run(run: Run) -> dict[str, Any]:
    """The recipe but for what says where it is written and sent."""
    flat = flattened({key: value for key, value in run.recipe.items() if key not in ("run", "track")})
    return {key: repr(value) for key, value in flat.items()}


def _differences(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all tables, with these."""
    told = []
    for key in sorted({key for table in tables for key in table}):
        found = [table.get(key) for table in tables]
        if key.startswith(WHERE_TOLD):
            found = [value for value in found if value is not None]
        values = {json.dumps(value, sort_keys=True) for value in found}
        if len(values) > 1:
            told.append(f"{key} is {' and '.join(sorted(values))}")
    return told


def _labels(runs: Sequence[Run]) -> list[str]:
    """The method of each run, with the options in which it differs from others of that name."""
    flat = [flattened({"method": run.recipe["method"], "train": run.recipe.get("train", {})}) for run in runs]
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    number = Counter(run.summary["method"] for run in runs)
    for run, own in zip(runs, flat, strict=True):
        for key, value in own.items():
            values[run.summary["method"], key].add(repr(value))
    there = Counter((run.summary["method"], key) for run, own in zip(runs, flat, strict=True) for key in own)
    labels = []
    for run, own in zip(runs, flat, strict=True):
        name = run.summary["method"]
        keys = [key for key in sorted(own) if len(values[name, key]) > 1 or there[name, key] < number[name]]
        told = ", ".join(f"{key.split('.', 1)[1]}={own[key]}" for key in keys)
        labels.append(f"{name} ({told})" if told else name)
    return labels


def flattened(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """``{"train": {"seed": 1}}`` → ``{"train.seed": 1}``."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flattened(value, f"{before}{key}.") if isinstance(value, Mapping) else {before + key: value}
    return found


class _Selected(BaseModel):
    step: float
    test: dict[str, Any]


class _Summary(BaseModel):
    task: str
    model: str
    method: str
    seed: int
    selects: str
    higher_is_better: bool
    selected: _Selected
    cost: dict[str, Any]


class _Row(BaseModel):
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


class _Document(BaseModel):
    """What comparisons read of a run directory; anything else may be there too."""

    summary: _Summary
    evaluations: list[_Row] = Field(min_length=1)
    recipe: dict[Literal["method"], dict[str, Any]] = Field(min_length=1)
    tuning: _Tuning | None
    environment: _Environments


def _read(path: Path) -> Run:
    directory = RunDirectory(path)
    summary = directory.summary()
    if summary.get("status") != "done":
        raise InputError(f"{path}: the run is {summary.get('status')}, not done: {summary.get('error', '')}")
    tuned = (path.parent / "tuning.json").is_file()
    tuning = RunDirectory(path.parent).document("tuning.json") if tuned else None
    run = Run(path, summary, directory.evaluations(), directory.recipe(), directory.environment(), tuning)
    method = {key: value for key, value in run.recipe.items() if key == "method"}
    try:
        _Document.model_validate(
            {
                "summary": summary,
                "evaluations": run.rows,
                "recipe": method,
                "tuning": tuning,
                "environment": run.environment,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {place}: {first['msg']}") from error
    if summary["selected"]["test"].get(summary["selects"], 0.0) is None:
        raise InputError(f"{path}: its {summary['selects']} on test is no number")
    return run


def _hardware(run: Run) -> Mapping[str, Any]:
    keys = ("processor", "cores", "threads", "device", "devices", "cuda")
    found = _everywhere(run, lambda environment: {key: environment.get("hardware", {}).get(key) for key in keys})
    return {**found, "processes": run.summary.get("processes")}


def _versions(run: Run) -> Mapping[str, Any]:
    return _everywhere(
        run,
        lambda environment: {
            **environment.get("packages", {}),
            **flattened({"plugins": environment.get("plugins", {})}),
            "python": environment.get("python"),
        },
    )


def _everywhere(run: Run, what: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Something of the environment, and of those that the run went on in: each value, or a list of those there were."""
    tables = [what(each) for each in (run.environment, *run.environment.get("resumed", ()))]
    found = {}
    for key in {key for table in tables for key in table}:
        values = [table.get(key) for table in tables]
        found[key] = values[0] if all(value == values[0] for value in values) else values
    return found


def _precision(run: Run) -> Mapping[str, Any]:
    model, train = run.recipe.get("model", {}), run.recipe.get("train", {})
    found = {f"model.{key}": model.get(key) for key in ("dtype", "quantization", "attention", "revision")}
    return found | {"train.mixed_precision": train.get("mixed_precision")}


def _data(run: Run) -> Mapping[str, Any]:
    train = run.recipe.get("train", {})
    lengths = {f"train.{key}": train.get(key) for key in ("max_source_length", "max_target_length")}
    rows = {key: run.summary.get(key, {}) for key in ("rows", "rows_digests")}
    return flattened({"task": run.recipe.get("task", {}), **rows}) | lengths


def _evaluation(run: Run) -> Mapping[str, Any]:
    keys = ("dev_examples", "test_examples", "scoring", "max_new_tokens", "num_beams")
    evaluate = run.recipe.get("evaluate", {})
    return {f"evaluate.{k}": evaluate.get(k) for k in keys} | {
        "evaluate.whole": _reported_on_whole_splits(run),
        "metric": run.recipe.get("metric"),
        "selects": run.summary["selects"],
    }


def _reported_on_whole_splits(run: Run) -> bool:
    """Whether the selected scores are of all of dev and test: in format 1 they were of what the curve is of."""
    evaluate = run.recipe.get("evaluate", {})
    if "rows_evaluated" in run.summary:
        return bool(evaluate.get("whole", True))
    return not (evaluate.get("dev_examples") or evaluate.get("test_examples"))


def _tuning(run: Run) -> Mapping[str, Any]:
    return flattened(run.tuning.get("limit", {})) if run.tuning else {}


UNFAIR = {
    "hardware": _hardware,
    "versions": _versions,
    "precision": _precision,
    "data": _data,
    "evaluation": _evaluation,
    "tuning": _tuning,
}
"""What runs of one comparison have to have in common, unless it is pooled."""
