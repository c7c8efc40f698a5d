"""Run directories → runs that may be compared, by task and model, or the reasons why they may not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from peftkit.compare.fairness import FAIRNESS_CHECKS, FIXED, differences, flattened, optimizers
from peftkit.errors import InputError, listed
from peftkit.runs import RunDirectory

VARIANT = "method.variant"
"""The option that names a preset of a method, such as `houlsby`."""


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
    def seeds(self) -> tuple[int, int, int]:
        """Its seeds of dropout and the training sample, of new weights and of the order of the rows."""
        own = self.recipe.get("run", {})
        return self.seed, int(own.get("init_seed", self.seed)), int(own.get("order_seed", self.seed))

    @property
    def training_sample(self) -> str:
        """How the training rows vary with the seed: ``bootstrap``, ``subset``, or not at all (``fixed``)."""
        return str(self.recipe.get("run", {}).get("resample_train") or FIXED)

    @property
    def section(self) -> tuple[str, str]:
        """What is compared with what: the task and the model."""
        return self.summary["task"], self.summary["model"]


@dataclass(frozen=True)
class Section:
    """Runs of one task with one model."""

    task: str
    model: str
    runs: Mapping[str, Mapping[int, Run]]
    """By the method's label and the seed; where one seed has several of initialisation or order, by a number."""
    pooled: Mapping[str, Sequence[str]]
    """What differs among them and was allowed to, with the values."""
    repeats: tuple[tuple[Run, ...], ...] = ()
    """Runs of the very same recipe: the first of each counts, all of them tell how much runs alike differ."""
    remarks: tuple[str, ...] = ()
    """What every conclusion from these runs has to say, such as what was held fixed."""


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The finished runs at or below the paths, each once, and what is wrong with the others.

    Raises:
        InputError: a path is not there, or no finished run lies at or below any.
    """
    runs: list[Run] = []
    problems = []
    for folder in run_folders(paths):
        try:
            runs.append(read_run(folder))
        except InputError as error:
            problems.append(str(error))
    if not runs:
        raise InputError("\n".join(["there is no finished run", *problems]))
    return runs, problems


def run_folders(paths: Iterable[Path]) -> list[Path]:
    """The run directories at or below the paths, each once; a sweep's trials only where they are named.

    Raises:
        InputError: a path is not there.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path}: there is no such folder")
        own = (path / "recipe.toml").is_file()
        below = sorted(file.parent for file in path.rglob("recipe.toml"))
        for folder in [path] if own else [each for each in below if not _of_a_trial(each, path)]:
            folders.setdefault(folder.resolve(), folder)
    return [*folders.values()]


def sections(runs: Iterable[Run], pool: Sequence[str] = ()) -> list[Section]:
    """The runs by task and model, each of one kind but for its method and its seed.

    Args:
        runs: what ``find_runs`` has found.
        pool: what may differ (see ``FAIRNESS_CHECKS``).

    Raises:
        InputError: runs of one section differ in what was not allowed, or two of one method and seed in anything.
    """
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.section].append(run)
    return [_section(*key, group, pool) for key, group in sorted(groups.items())]


def _section(task: str, model: str, runs: Sequence[Run], pool: Sequence[str]) -> Section:
    differing = {name: differences([dict(what(run)) for run in runs]) for name, what in FAIRNESS_CHECKS.items()}
    differing = {name: found for name, found in differing.items() if found}
    refused = {name: found for name, found in differing.items() if name not in pool}
    if refused:
        lines = [f"{name}: {text}" for name, found in refused.items() for text in found[:5]]
        allowed = " ".join(f"--pool {name}" for name in refused)
        head = f"the runs of {task!r} with {model!r} are not of one kind, and would not be compared fairly"
        raise InputError("\n".join([head, *lines, f"leave some out, or compare them all the same: {allowed}"]))
    labels = _labels(runs)
    numbers = _numbered({run.seeds for run in runs})
    alike: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run, label in zip(runs, labels, strict=True):
        alike[label, numbers[run.seeds]].append(run)
    found: dict[str, dict[int, Run]] = defaultdict(dict)
    for (label, seed), of in alike.items():
        different = differences([_what_was_run(run) for run in of])
        if different:
            raise InputError(
                f"{of[0].path} and {of[-1].path} are of one method and seed, and differ: {'; '.join(different[:5])}; "
                "leave one out"
            )
        found[label][seed] = of[0]
    repeats = tuple(tuple(of) for of in alike.values() if len(of) > 1)
    return Section(task, model, dict(found), differing, repeats, tuple(_remarks(runs, numbers)))


Seeds = tuple[int, int, int]


def _numbered(seeds: Iterable[Seeds]) -> dict[Seeds, int]:
    """A number for each combination of seeds: the seed itself, where each has one of initialisation and of order."""
    known = sorted(seeds)
    alone = len({seed for seed, _, _ in known}) == len(known)
    return {each: each[0] if alone else number for number, each in enumerate(known, 1)}


def _remarks(runs: Sequence[Run], numbers: Mapping[Seeds, int]) -> Iterator[str]:
    drawn = sorted({run.training_sample for run in runs} - {FIXED})
    all_drawn = all(run.training_sample != FIXED for run in runs)
    if not drawn or len({run.seed for run in runs}) == 1:
        yield "training sample: held fixed; intervals hold for this training sample (see run.resample_train)"
    elif all_drawn:
        yield f"training sample: varies with the seed ({listed(drawn)})"
    else:
        fixed = listed(sorted({run.summary["method"] for run in runs if run.training_sample == FIXED}))
        yield f"training sample: varies with the seed ({listed(drawn)}), but is held fixed for {fixed}"
    if different := differences([optimizers(run) for run in runs]):
        yield f"methods do not share an optimizer: {'; '.join(different)}"
    if any(number != seed for (seed, _, _), number in numbers.items()):
        several = ", ".join(
            f"{number} (seed {seed}, init_seed {init}, order_seed {order})"
            for (seed, init, order), number in numbers.items()
        )
        yield f"seeds are numbered: {several}"


def imported_notes(section: Section) -> tuple[str, ...]:
    """What has to be said of results of other systems, and of what their seconds are the sum."""
    runs = [(label, run) for label, of in section.runs.items() for run in of.values() if run.imported]
    found = dict.fromkeys(f"{run.imported}: {run.summary['imported'].get('note', '')}" for _, run in runs)
    times = [
        f"{label} {seconds['steps']:,.1f} s of {seconds['train_time']:,.1f} s"
        for label, run in runs
        if (seconds := run.summary["imported"].get("seconds"))
    ]
    return (*found, *([f"times of steps and the files' train_time: {'; '.join(times)}"] if times else []))


def _of_a_trial(folder: Path, top: Path) -> bool:
    """Whether a run was tried for a sweep's tuning: it is chosen by dev, and is no result."""
    above = [parent for parent in folder.parents if parent == top or top in parent.parents]
    return any(parent.name == "trials" and (parent.parent / "sweep.json").is_file() for parent in above)


def _what_was_run(run: Run) -> dict[str, Any]:
    """The recipe but for what says where it is written and sent, and its seeds."""
    flat = flattened({key: value for key, value in run.recipe.items() if key not in ("run", "track")})
    own = run.recipe.get("run", {})
    flat |= {f"run.{key}": own[key] for key in ("resample_train", "subset_fraction") if key in own}
    return {key: repr(value) for key, value in flat.items()}


def _labels(runs: Sequence[Run]) -> list[str]:
    """The method of each run, with the options in which it differs from others of that name.

    What a sweep has tuned is named only where two kinds of runs do not differ otherwise; a named variant goes by its
    name.
    """
    flat = [flattened({"method": run.recipe["method"], "train": run.recipe.get("train", {})}) for run in runs]
    untuned = [
        {key: value for key, value in own.items() if key not in (run.tuning or {}).get("settings", {})}
        for run, own in zip(runs, flat, strict=True)
    ]
    labels = _labelled(runs, untuned)
    kinds: dict[str, set[str]] = defaultdict(set)
    for label, own in zip(labels, flat, strict=True):
        kinds[label].add(repr(sorted(own.items(), key=str)))
    if all(len(each) == 1 for each in kinds.values()):
        return labels
    return _labelled(runs, flat)


def _labelled(runs: Sequence[Run], flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """Labels that name the keys in which runs of one method differ."""
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
        options = ", ".join(own[key] if key == VARIANT else f"{key.split('.', 1)[1]}={own[key]}" for key in keys)
        labels.append(f"{name} ({options})" if options else name)
    return labels


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


def read_run(path: Path) -> Run:
    """The finished run in a folder.

    Raises:
        InputError: the run is not finished, or lacks what comparisons read.
    """
    directory = RunDirectory(path)
    summary = directory.summary()
    if summary.get("status") != "done":
        raise InputError(f"{path}: the run is {summary.get('status')}, not done: {summary.get('error', '')}")
    tuned = (path.parent / "tuning.json").is_file()
    tuning = RunDirectory(path.parent).document("tuning.json") if tuned else None
    if tuning and tuning.get("superseded"):
        raise InputError(f"{path}: its settings were replaced by a later tuning of its sweep")
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
    return _with_tuning_cost(run)


def _with_tuning_cost(run: Run) -> Run:
    """The run with ``gmacs_with_tuning``: every point of its curve carries all that tuning took, the head's too."""
    if run.tuning is None:
        return run
    spent = float(run.tuning["gmacs"]) + float((run.tuning.get("head") or {}).get("gmacs", 0.0))

    def with_tuning(row: Mapping[str, Any]) -> Mapping[str, Any]:
        gmacs = row["cost"].get("gmacs")
        return row if gmacs is None else {**row, "cost": {**row["cost"], "gmacs_with_tuning": gmacs + spent}}

    return replace(run, summary=with_tuning(run.summary), rows=[with_tuning(row) for row in run.rows])
