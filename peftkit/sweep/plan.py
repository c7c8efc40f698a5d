"""Estimate the cost of a sweep before it is started."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

from peftkit.cache import cache_folder
from peftkit.errors import ModelError, PeftkitError, RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.resolve import model_path
from peftkit.recipe.tables import RunConfig
from peftkit.run_directory import RunDirectory
from peftkit.sweep.grid import Grid, RejectedStudy
from peftkit.sweep.head_tuning import find_heads
from peftkit.sweep.scheduler import final_recipes, find_run
from peftkit.sweep.tuner import Tuner
from peftkit.sweep.tuning_stages import TuningTarget

LIBRARIES = ("peftkit", "torch", "transformers", "peft")
"""Libraries whose versions the cost of a step depends on. (Its time also depends on the machine.)"""
SAMPLING = {"resample_train", "subset_fraction"}
"""Keys of ``run`` that the number of training rows depends on."""
WITHOUT_COST = ("learning_rate", "head_learning_rate", "schedule", "warmup_ratio", "on_nan", "checkpoint")
"""Keys of ``train`` that the cost of a step does not depend on."""


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
    tuner = Tuner(grid, registry, overrides) if grid.config.tune else None
    studies: list[PlannedStudy] = []
    number = count(1)
    total = len(grid.studies)

    def report(label: str) -> None:
        say(f"[{next(number)}/{total}] {label}")

    estimator = _CostEstimator(registry, trial)
    if tuner:
        try:
            heads = {head.folder: head for head in find_heads(grid, registry, overrides).values()}
            total += len(heads)
            studies = [estimator.estimate_study(head.label, (), 0, {}, tuner, head, report) for head in heads.values()]
        except (RunError, ModelError) as error:  # such as an unavailable hub; other studies are still estimated
            studies = [PlannedStudy("new heads", (), 0, 0, None, None, str(error))]
    for study in grid.studies:
        finished = sum(1 for each in final_recipes(grid, study, registry, overrides).values() if _is_finished(each))
        target = tuner.target_for(study) if tuner else None
        studies.append(
            estimator.estimate_study(study.label, tuple(study.recipes), finished, study.recipes, tuner, target, report)
        )
    return SweepPlan(tuple(studies), grid.rejected)


class _CostEstimator:
    """Estimate the cost of runs, with a cache."""

    def __init__(self, registry: Registry, trial: bool) -> None:
        self.registry, self.trial = registry, trial
        self.speeds: dict[tuple[str, str], float | None] = {}

    def estimate_study(
        self,
        label: str,
        seeds: tuple[int, ...],
        finished: int,
        finals: Mapping[int, Recipe],
        tuner: Tuner | None,
        target: TuningTarget | None,
        say: Callable[[str], None],
    ) -> PlannedStudy:
        """Estimate all runs of a study, or of a head, which has no final runs."""
        design = tuner.design(target) if tuner and target else None
        trials = design.total if design else 0
        try:
            say(label)
            costs = [(self._estimate_run(next(iter(finals.values()))), len(finals))] if finals else []
            if tuner and target and design:
                costs.append((self._estimate_run(tuner.recipe(target)), design.total - design.transfer))
                if design.transfer:
                    transfer_recipe = tuner.recipe(target, stage="transfer")
                    costs.append((self._estimate_run(transfer_recipe), design.transfer))
        except PeftkitError as error:
            return PlannedStudy(label, seeds, finished, trials, None, None, str(error))
        gmacs, seconds = (
            None if any(each[i] is None for each, _ in costs) else sum((each[i] or 0.0) * n for each, n in costs)
            for i in (0, 1)
        )
        return PlannedStudy(label, seeds, finished, trials, gmacs, seconds)

    def _estimate_run(self, recipe: Recipe) -> tuple[float | None, float | None]:
        """Estimate the GMACs and seconds of one run."""
        file = cache_folder() / "costs" / f"{cost_hash(recipe, self.registry)}.json"
        estimate: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            estimate = json.loads(file.read_text(encoding="utf-8"))
        model_and_method = recipe.model.name, json.dumps(recipe.method.model_dump(mode="json"), sort_keys=True)
        timed = estimate.get("seconds_per_step") is not None
        if not estimate or (self.trial and not timed and model_and_method not in self.speeds):
            from peftkit.analysis.cost_estimate import estimate_cost  # imports torch

            estimate = asdict(
                estimate_cost(recipe, self.registry, trial=self.trial and model_and_method not in self.speeds)
            )
            RunDirectory(file.parent).write_json(file.name, estimate)
            timed = estimate["seconds_per_step"] is not None
        if timed:
            self.speeds.setdefault(model_and_method, estimate["gmacs_per_step"] / estimate["seconds_per_step"])
        gmacs = estimate["gmacs"] if estimate["gmacs"] is not None else recipe.train.budget.gmacs
        speed = self.speeds.get(model_and_method)
        return gmacs, None if gmacs is None or speed is None else gmacs / speed


def cost_hash(recipe: Recipe, registry: Registry) -> str:
    """Hash what the estimated cost of a run depends on.

    The seed is left out: the rows of a step differ between seeds, and their costs add up to nearly the same.

    Args:
        recipe: The recipe.
        registry: The installed components.
    """
    tables = recipe.model_dump(mode="json", exclude={"run": {*RunConfig.model_fields} - SAMPLING, "track": True})
    del tables["evaluate"], tables["metric"], tables["callback"]
    tables["train"] = {key: value for key, value in tables["train"].items() if key not in WITHOUT_COST}
    files = {str(path): path.stat().st_mtime_ns for path in sorted(_input_files(recipe))}
    versions = {name: version(name) for name in LIBRARIES}
    inputs = [tables, files, dict(registry.distributions), versions, _code_time(), platform.node()]
    return sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _code_time() -> int:
    """Return when the code of peftkit was last changed, which says more than the version where it is developed."""
    return max(file.stat().st_mtime_ns for file in Path(__file__).parents[1].rglob("*.py"))


def _input_files(recipe: Recipe) -> Iterator[Path]:
    """Yield the config and the tokenizer of a local model, and the files that the task names."""
    folder = Path(model_path(recipe.model.name))
    yield from folder.glob("*.json")
    for value in recipe.task.model_dump(mode="json").values():
        for text in value if isinstance(value, list) else [value]:
            with suppress(OSError, ValueError):  # not a path, such as a long prompt
                if isinstance(text, str) and text and (path := Path(text)).exists():
                    yield from (each for each in (path.rglob("*") if path.is_dir() else [path]) if each.is_file())


def _is_finished(recipe: Recipe) -> bool:
    run = find_run(recipe)
    return run is not None and run.finished
