"""Equal tuning: every study gets the same trials over what its method declares, judged on dev only.

What is tried next is a function of the seed and of the trials so far, so that a sweep that was broken off finds its
own trials again: nothing is kept but their run directories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftkit.components import Between, Search
from peftkit.errors import InputError, RecipeError, RunError, did_you_mean
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.runs import RunDirectory
from peftkit.sweep.grid import Grid, Study, as_overrides, make, nested, problems_at
from peftkit.sweep.tables import TuneTable, search_of

STARTUP = 5
"""Trials that are drawn evenly before earlier ones lead, and of few trials a third."""
Try = Callable[[Mapping[str, Any]], RunDirectory | None]
"""Runs a trial with these settings; None where it failed."""


@dataclass(frozen=True)
class Tuned:
    """What tuning has found, and what it took."""

    settings: Mapping[str, Any]
    trials: tuple[Mapping[str, Any], ...]
    gmacs: float
    space: Mapping[str, Any]


def space_of(study: Study, tune: TuneTable) -> Search:
    """What the study's trials draw from.

    Raises:
        InputError: an axis sets one of these keys already, or a range is empty.
    """
    method = study.any_recipe.method
    try:
        space = search_of(tune.space[method.name]) if method.name in tune.space else method.search
    except ValueError as error:
        raise InputError(f"tune.space.{method.name}: {error}") from error
    if not space:
        raise InputError(f"{method.name!r} declares nothing to tune; give [tune.space.{method.name}]")
    taken = {text.split("=", 1)[0] for layer in study.layers for text in as_overrides(layer)}
    twice = sorted(space.keys() & taken)
    if twice:
        raise InputError(f"{study.label}: {twice[0]} is an axis and tuned, too; leave one out")
    return space


def check_tuning(grid: Grid, registry: Registry, overrides: Sequence[str] = ()) -> None:
    """Refuses tuning that would go wrong in the middle of the sweep.

    Args:
        grid: the sweep.
        registry: the installed components.
        overrides: those that the grid was expanded with.

    Raises:
        InputError: a space is of no method, a range of it is empty, or what trials change is no key of a recipe, is
            of a value that it cannot have, or is an axis.
    """
    tune, methods = grid.table.tune, registry.of("method")
    if not tune:
        return
    for name in tune.space:
        if name not in methods:
            raise InputError(f"{grid.path}: tune.space.{name}: there is no such method{did_you_mean(name, methods)}")
    tried = set()
    for study in grid.studies:
        space, method = space_of(study, tune), study.any_recipe.method.name
        if method not in tried:
            tried.add(method)
            first = {key: each.low if isinstance(each, Between) else each[0] for key, each in space.items()}
            try:
                make(grid.path, grid.table, registry, (*study.layers, tune.set, layer_of(first)), overrides)
            except RecipeError as error:
                raise RecipeError(problems_at(grid.path, f"{study.label}, tuned", error)) from error


def tune_study(study: Study, tune: TuneTable, attempt: Try) -> Tuned:
    """Asks and tells until the trials or the GMACs are used up.

    The first trial has the recipe's own values where the space holds them; a tree-structured Parzen estimator (Bergstra
    et al., 2011) proposes the others.

    Args:
        study: what is tuned.
        tune: how much.
        attempt: runs a trial.

    Raises:
        RunError: optuna is not installed, or every trial failed.
    """
    optuna = _optuna()
    space = space_of(study, tune)
    first = max(1, min(STARTUP, (tune.trials or 3 * STARTUP) // 3))
    sampler = optuna.samplers.TPESampler(seed=tune.seed, n_startup_trials=first)
    higher = study.any_recipe.higher_is_better(study.any_recipe.selects)
    search = optuna.create_study(direction="maximize" if higher else "minimize", sampler=sampler)
    own = {key: value for key in space if _holds(space[key], value := _value(study.any_recipe, key))}
    if own.keys() == space.keys():
        search.enqueue_trial(own)
    done: list[dict[str, Any]] = []
    spent = 0.0
    while _goes_on(tune, len(done), spent):
        trial = search.ask()
        settings = {key: _drawn(trial, key, of) for key, of in space.items()}
        found = attempt(settings)
        if found is None:
            search.tell(trial, state=optuna.trial.TrialState.FAIL)
            done.append({"settings": settings, "score": None, "gmacs": None, "run": None})
            if all(each["run"] is None for each in done[-3:]) and len(done) >= 3 and tune.trials is None:
                break  # what fails uses up nothing, and would be tried for ever
            continue
        summary = found.summary()
        score = float(summary["selected"]["dev"][summary["selects"]])
        search.tell(trial, score)
        gmacs = float(summary["cost"]["gmacs"])
        spent += gmacs
        done.append({"settings": settings, "score": score, "gmacs": gmacs, "run": found.path.name})
    scored = [each for each in done if each["run"] is not None]
    if not scored:
        raise RunError(f"{study.label}: every trial failed")
    best = (max if higher else min)(scored, key=lambda each: each["score"])
    told = {
        key: {"low": of.low, "high": of.high, "log": of.log} if isinstance(of, Between) else list(of)
        for key, of in space.items()
    }
    return Tuned(best["settings"], tuple(done), spent, told)


def layer_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What was drawn, as a part of a recipe."""
    return nested(settings)


def _goes_on(tune: TuneTable, done: int, spent: float) -> bool:
    """Whether another trial fits; of GMACs, one that takes what the others took on average."""
    if tune.trials is not None:
        return done < tune.trials
    assert tune.gmacs is not None  # the table has checked it  # noqa: S101
    return spent + spent / max(1, done) <= tune.gmacs


def _drawn(trial: Any, key: str, of: Between | Any) -> Any:
    if not isinstance(of, Between):
        return trial.suggest_categorical(key, list(of))
    if isinstance(of.low, int) and isinstance(of.high, int):
        return trial.suggest_int(key, of.low, of.high, log=of.log)
    return float(f"{trial.suggest_float(key, of.low, of.high, log=of.log):.4g}")  # as a person would write it


def _holds(of: Between | Any, value: Any) -> bool:
    if isinstance(of, Between):
        return isinstance(value, int | float) and of.low <= value <= of.high
    return value in of


def _value(recipe: Recipe, key: str) -> Any:
    found: Any = recipe
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else getattr(found, part, None)
    return found


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise RunError("tuning needs optuna: pip install 'peftkit[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
