"""Estimate the cost of a sweep before it is started."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.cache_folder import cache_folder
from peftkit.data.input_files import code_digests, file_states
from peftkit.errors import ModelError, PeftkitError, RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.model_names import model_config
from peftkit.recipe.tables.run_config import RunConfig
from peftkit.recipe.tables.train_config import WITHOUT_COST
from peftkit.run_directory import RunDirectory
from peftkit.sweep.estimate_processes import estimate_in_processes, processes_for, start_server
from peftkit.sweep.grid import Grid, RejectedStudy
from peftkit.sweep.scheduler import final_recipes, find_run
from peftkit.sweep.tuning.head_tuning import find_heads
from peftkit.sweep.tuning.tuner import Tuner
from peftkit.sweep.tuning.tuning_stages import TuningTarget

if TYPE_CHECKING:
    from peftkit.sweep.work_estimate import WorkEstimator

LIBRARIES = ("peftkit", "torch", "transformers", "peft")
"""Libraries whose versions the cost of a step depends on. (Its time also depends on the machine.)"""
SAMPLING = {"resample_train", "subset_fraction"}
"""Keys of ``run`` that the number of training rows depends on."""


@dataclass(frozen=True)
class PlannedStudy:
    """The estimated cost of one study, or of a head that is tuned first, summed over all its runs."""

    label: str
    seeds: tuple[int, ...]
    finished: int
    """Final runs that are finished."""
    trials: int
    """Runs of its tuning."""
    gmacs: float | None
    """None if the budget does not determine it."""
    seconds: float | None
    """Training time on this machine; None if it was not measured."""
    problem: str = ""
    """Why the cost could not be estimated."""


@dataclass(frozen=True)
class SweepPlan:
    """The estimated cost of a sweep."""

    studies: tuple[PlannedStudy, ...]
    refused: tuple[RejectedStudy, ...]

    @property
    def runs(self) -> int:
        """The number of final runs."""
        return sum(len(study.seeds) for study in self.studies)

    @property
    def gmacs(self) -> float | None:
        """The sum over studies with a known number; None if there are none."""
        return _sum_of_known([study.gmacs for study in self.studies])

    @property
    def seconds(self) -> float | None:
        """The sum over studies with a measured time; None if there are none."""
        return _sum_of_known([study.seconds for study in self.studies])


def _sum_of_known(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def estimate_sweep(
    grid: Grid,
    registry: Registry,
    overrides: Sequence[str] = (),
    *,
    trial: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> SweepPlan:
    """Estimate every study as ``peftkit cost`` does.

    Estimates are kept in the cache folder, by what they depend on: the trials of a study share that of its final
    runs unless they have another budget.

    Time is measured on a few steps, once for each model and method; other studies of the same pair are assumed to
    compute as many MACs per second.

    Args:
        grid: The sweep.
        registry: The installed components.
        overrides: The overrides that the grid was expanded with.
        trial: Whether to run and time these steps.
        say: Called with the number and the label of each study before it is estimated.

    Returns:
        The plan.
    """
    if not trial and processes_for(len(grid.studies)) > 1 and not any((cache_folder() / "costs").glob("*.json")):
        start_server()  # before it is known which estimates are missing; all are
    tuner = Tuner(grid, registry, overrides) if grid.config.tune else None
    estimator = _CostEstimator(registry, trial)
    problems: list[PlannedStudy] = []
    runs: list[_StudyRuns] = []
    if tuner:
        try:
            heads = {head.folder: head for head in find_heads(grid, registry, overrides).values()}
            runs = [_StudyRuns.list_runs(head.label, (), 0, {}, tuner, head) for head in heads.values()]
        except (RunError, ModelError) as error:  # such as an unavailable hub; other studies are still estimated
            problems = [PlannedStudy("new heads", (), 0, 0, None, None, str(error))]
    for study in grid.studies:
        finished = sum(1 for each in final_recipes(grid, study, registry, overrides).values() if _is_finished(each))
        target = tuner.target_for(study) if tuner else None
        runs.append(_StudyRuns.list_runs(study.label, tuple(study.recipes), finished, study.recipes, tuner, target))
    if not trial:
        estimator.estimate_in_processes(runs, say)
    studies = []
    for number, each in enumerate(runs, 1):
        if not estimator.reported:
            say(f"[{number}/{len(runs)}] {each.label}")
        studies.append(estimator.estimate_study(each))
    return SweepPlan((*problems, *studies), grid.rejected)


@dataclass(frozen=True)
class _StudyRuns:
    """The runs of a study, or of a head, which has no final runs."""

    label: str
    seeds: tuple[int, ...]
    finished: int
    trials: int
    runs: tuple[tuple[Recipe, int], ...] = ()
    """A recipe of each kind of run, and how many there are."""
    problem: str = ""
    """Why there are no recipes."""

    @classmethod
    def list_runs(
        cls,
        label: str,
        seeds: tuple[int, ...],
        finished: int,
        finals: Mapping[int, Recipe],
        tuner: Tuner | None,
        target: TuningTarget | None,
    ) -> _StudyRuns:
        """List the runs of a study: those of its final recipes by seed, and the trials of its tuning."""
        runs = [(next(iter(finals.values())), len(finals))] if finals else []
        if tuner is None or target is None:
            return cls(label, seeds, finished, 0, tuple(runs))
        design = tuner.design(target)
        try:
            runs.append((tuner.recipe(target), design.total - design.transfer))
            if design.transfer:
                runs.append((tuner.recipe(target, stage="transfer"), design.transfer))
        except PeftkitError as error:
            return cls(label, seeds, finished, design.total, problem=str(error))
        return cls(label, seeds, finished, design.total, tuple(runs))


class _CostEstimator:
    """Estimate the cost of runs, with a cache."""

    def __init__(self, registry: Registry, trial: bool) -> None:
        self.registry, self.trial = registry, trial
        self.speeds: dict[tuple[str, str], float | None] = {}
        self.reported = False
        """Whether progress was reported already."""
        self._code: dict[frozenset[type], Mapping[str, str]] = {}
        self._keys: dict[int, str] = {}
        self._estimates: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, str] = {}

    def estimate_in_processes(self, studies: Sequence[_StudyRuns], say: Callable[[str], None]) -> None:
        """Make the estimates that are not in the cache in several processes, if there are enough of them."""
        labels: dict[str, str] = {}
        recipes: dict[str, Recipe] = {}
        for study in studies:
            for recipe, _ in study.runs:
                key = self._key(recipe)
                if key not in recipes and not self._read(key):
                    labels[key], recipes[key] = study.label, recipe
        processes = processes_for(len(recipes))
        if processes == 1:
            return
        self.reported = True
        for number, (key, estimate, error) in enumerate(estimate_in_processes(recipes, processes), 1):
            say(f"[{number}/{len(recipes)}] {labels[key]}")
            if estimate is None:
                self._errors[key] = error
            else:
                self._write(key, estimate)

    def estimate_study(self, study: _StudyRuns) -> PlannedStudy:
        """Estimate all runs of a study, or of a head."""
        known = study.label, study.seeds, study.finished, study.trials
        if study.problem:
            return PlannedStudy(*known, None, None, study.problem)
        try:
            costs = [(self._estimate_run(recipe), number) for recipe, number in study.runs]
        except PeftkitError as error:
            return PlannedStudy(*known, None, None, str(error))
        gmacs, seconds = (
            None if any(each[i] is None for each, _ in costs) else sum((each[i] or 0.0) * n for each, n in costs)
            for i in (0, 1)
        )
        return PlannedStudy(*known, gmacs, seconds)

    def _estimate_run(self, recipe: Recipe) -> tuple[float | None, float | None]:
        """Estimate the GMACs and seconds of one run."""
        key = self._key(recipe)
        if key in self._errors:
            raise RunError(self._errors[key])
        estimate = self._read(key)
        model_and_method = recipe.model.name, json.dumps(recipe.method.model_dump(mode="json"), sort_keys=True)
        timed = estimate.get("seconds_per_step") is not None
        if not estimate or (self.trial and not timed and model_and_method not in self.speeds):
            trial = self.trial and model_and_method not in self.speeds
            estimate = asdict(self._estimator.estimate(recipe, trial=trial))
            self._write(key, estimate)
            timed = estimate["seconds_per_step"] is not None
        if timed:
            self.speeds.setdefault(model_and_method, estimate["gmacs_per_step"] / estimate["seconds_per_step"])
        gmacs = estimate["gmacs"] if estimate["gmacs"] is not None else recipe.train.budget.gmacs
        speed = self.speeds.get(model_and_method)
        return gmacs, None if gmacs is None or speed is None else gmacs / speed

    def _key(self, recipe: Recipe) -> str:
        if id(recipe) not in self._keys:  # the studies keep their recipes
            self._keys[id(recipe)] = cost_hash(recipe, self._code_of(recipe))
        return self._keys[id(recipe)]

    def _read(self, key: str) -> dict[str, Any]:
        """Read an estimate from the cache; empty if it is not there."""
        if key not in self._estimates:
            with suppress(OSError, ValueError):
                text = (cache_folder() / "costs" / f"{key}.json").read_text(encoding="utf-8")
                self._estimates[key] = json.loads(text)
        return self._estimates.get(key, {})

    def _write(self, key: str, estimate: Mapping[str, Any]) -> None:
        self._estimates[key] = dict(estimate)
        RunDirectory(cache_folder() / "costs").write_json(f"{key}.json", estimate)

    @cached_property
    def _estimator(self) -> WorkEstimator:
        from peftkit.sweep.work_estimate import WorkEstimator  # imports torch

        return WorkEstimator(self.registry)

    def _code_of(self, recipe: Recipe) -> Mapping[str, str]:
        """Return the digests of the plugins that a recipe uses."""
        kind, objective = recipe.trained_kind(model_config(recipe.model.name)), recipe.objective
        if kind is not None:
            with suppress(LookupError):  # which estimating the recipe reports
                objective = recipe.objective_for(kind)
        key = frozenset(map(type, (recipe.task, recipe.method, objective, *recipe.metric, *recipe.callback)))
        if key not in self._code:
            self._code[key] = code_digests(recipe, self.registry, objective)
        return self._code[key]


def cost_hash(recipe: Recipe, code: Mapping[str, str]) -> str:
    """Hash what the estimated cost of a run depends on.

    The seed is left out: the rows of a step differ between seeds, and their costs add up to nearly the same.

    Args:
        recipe: The recipe.
        code: The digests of the plugins that it uses (see ``code_digests``).
    """
    tables = recipe.model_dump(mode="json", exclude={"run": {*RunConfig.model_fields} - SAMPLING, "track": True})
    del tables["evaluate"], tables["metric"], tables["callback"]
    tables["train"] = {key: value for key, value in tables["train"].items() if key not in WITHOUT_COST}
    inputs = [tables, file_states(recipe), dict(code), _versions(), _code_time(), platform.node()]
    return sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


@cache
def _code_time() -> int:
    """Return when the code of peftkit was last changed, which says more than the version where it is developed."""
    return max(file.stat().st_mtime_ns for file in Path(__file__).parents[1].rglob("*.py"))


def _is_finished(recipe: Recipe) -> bool:
    run = find_run(recipe)
    return run is not None and run.finished
