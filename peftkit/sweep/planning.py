"""What a sweep will take, before it is started."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from peftkit.errors import PeftkitError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.runs import RunDirectory
from peftkit.sweep.grid import Grid, Refused, Study, address, make
from peftkit.sweep.running import final_recipes, found


@dataclass(frozen=True)
class Planned:
    """One study of a plan; its numbers are of all its runs together, tuning among them."""

    label: str
    seeds: tuple[int, ...]
    finished: int
    """Of its final runs."""
    trials: int | None
    """None where MACs limit them."""
    gmacs: float | None
    """None where the budget does not tell beforehand."""
    seconds: float | None
    """Of training, on this machine; None where that was not tried."""
    problem: str = ""
    """Why it could not be predicted."""


@dataclass(frozen=True)
class Plan:
    """All of a sweep."""

    studies: tuple[Planned, ...]
    refused: tuple[Refused, ...]

    @property
    def runs(self) -> int:
        """Final runs."""
        return sum(len(study.seeds) for study in self.studies)

    @property
    def gmacs(self) -> float | None:
        """Of all whose work is known; None if it is of none."""
        return _sum_of_known([study.gmacs for study in self.studies])

    @property
    def seconds(self) -> float | None:
        """Of all that were timed; None if none was."""
        return _sum_of_known([study.seconds for study in self.studies])


def _sum_of_known(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def plan(
    grid: Grid,
    registry: Registry,
    overrides: Sequence[str] = (),
    *,
    trial: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Predicts every study as ``peftkit cost`` does; what was predicted once is kept in the sweep's folder.

    The time is that of a few steps made here, once for each model and method; other studies of these are taken to
    do as many MACs a second.

    Args:
        grid: the sweep.
        registry: the installed components.
        overrides: those that the grid was expanded with.
        trial: whether to make these steps.
        say: is told of each study that is predicted.
    """
    speeds: dict[tuple[str, str], float | None] = {}
    told = tuple(_planned(grid, study, registry, overrides, trial, speeds, say) for study in grid.studies)
    return Plan(told, grid.refused)


def _planned(
    grid: Grid,
    study: Study,
    registry: Registry,
    overrides: Sequence[str],
    trial: bool,
    speeds: dict[tuple[str, str], float | None],
    say: Callable[[str], None],
) -> Planned:
    recipe = study.any_recipe
    tune = grid.table.tune
    done = sum(1 for each in final_recipes(grid, study, registry, overrides).values() if _finished(each))
    trials = tune.trials if tune else 0
    try:
        say(study.label)
        runs = _predicted(grid, recipe, registry, trial, speeds)
        gmacs = None if runs[0] is None else runs[0] * len(study.recipes)
        seconds = None if runs[1] is None else runs[1] * len(study.recipes)
        if tune:
            layers = (*study.layers, tune.set, {"run": {"seed": tune.seed}})
            one = _predicted(grid, make(grid.path, grid.table, registry, layers, overrides), registry, trial, speeds)
            number = tune.trials or (tune.gmacs or 0.0) / (one[0] or 1.0)
            gmacs = None if gmacs is None or one[0] is None else gmacs + one[0] * number
            seconds = None if seconds is None or one[1] is None else seconds + one[1] * number
    except PeftkitError as error:
        return Planned(study.label, tuple(study.recipes), done, trials, None, None, str(error))
    return Planned(study.label, tuple(study.recipes), done, trials, gmacs, seconds)


def _finished(recipe: Recipe) -> bool:
    run = found(recipe)
    return run is not None and run.finished


def _predicted(
    grid: Grid, recipe: Recipe, registry: Registry, trial: bool, speeds: dict[tuple[str, str], float | None]
) -> tuple[float | None, float | None]:
    """GMACs and seconds of one run."""
    file = grid.folder / "costs" / f"{address(recipe)}.json"
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8"))
    kind = recipe.model.name, json.dumps(recipe.method.model_dump(mode="json"), sort_keys=True)
    timed = known.get("seconds_per_step") is not None
    if not known or (trial and not timed and kind not in speeds):
        from peftkit.runner.prediction import predict_cost  # torch

        known = asdict(predict_cost(recipe, registry, trial=trial and kind not in speeds))
        RunDirectory(file.parent).write_json(file.name, known)
        timed = known["seconds_per_step"] is not None
    if timed:
        speeds.setdefault(kind, known["gmacs_per_step"] / known["seconds_per_step"])
    gmacs = known["gmacs"] if known["gmacs"] is not None else recipe.train.budget.gmacs
    speed = speeds.get(kind)
    return gmacs, None if gmacs is None or speed is None else gmacs / speed
