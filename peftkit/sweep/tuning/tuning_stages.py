"""The stages of a tuning, equal for every study: as many trials by the same design, selected on dev only.

The next trial is a function of the seed and the earlier trials, so that an interrupted sweep reproduces its trials and
no state is stored except their run directories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from peftkit.components import ModelKind, Range, SearchSpace
from peftkit.errors import InputError, RecipeError, RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.model_names import model_config
from peftkit.sweep.grid import Grid, Layer, Study, expand, make_recipe, relocate_problems, to_overrides, unflatten
from peftkit.sweep.sweep_file import MODEL_BASED_FROM, TuneConfig, read_sweep, to_search_space
from peftkit.sweep.tuning.samplers import (
    TOLERANCE,
    ModelBasedSearch,
    Point,
    Space,
    end_name,
    import_optuna,
)
from peftkit.sweep.tuning.trial_design import NUM_LEADERS, TrialDesign
from peftkit.sweep.tuning.trial_selection import Selector, Stage, Trial, TrialResult

HEAD_LEARNING_RATE = "train.head_learning_rate"
RunTrial = Callable[[Mapping[str, Any], int, Stage], TrialResult | None]
"""Run a trial with settings, seed and stage; returns None if it failed."""


@dataclass(frozen=True)
class TuningTarget:
    """What is tuned: the method of a study, or the new head of a model for a task."""

    label: str
    layers: tuple[Layer, ...]
    """The parts of its recipes, without the settings."""
    recipe: Recipe
    """The recipe with the final budget, without the settings."""
    search: SearchSpace
    trials: int
    folder: str
    """The folder of its trials, below the sweep's folder ``trials``."""
    final_seeds: frozenset[int] = frozenset()
    """Seeds that trials do not use, because selecting settings by a seed's dev score would bias its test score."""


@dataclass(frozen=True)
class TuningResult:
    """The selected settings and the trials."""

    settings: Mapping[str, Any]
    trials: tuple[Trial, ...]
    at_edge: tuple[Mapping[str, Any], ...]
    """The axes on whose end the best setting lies, even after the extension."""
    order_holds: bool | None
    """Whether the leading settings keep their order with the final budget; None if trials have the same budget or fewer
    than two of these runs have a score."""

    @property
    def gmacs(self) -> float:
        """The compute of all finished trials."""
        return sum(trial.result.gmacs for trial in self.trials if trial.result)


def search_space_of(study: Study, tune: TuneConfig) -> SearchSpace:
    """Return the search space of a study's trials; it is empty for a method that trains only the classification head.

    Args:
        study: The study.
        tune: The sweep's ``[tune]`` table.

    Returns:
        The search space.

    Raises:
        InputError: An axis sets one of these keys, a range is empty, or a key is tuned separately.
    """
    method = study.any_recipe.method
    try:
        override = tune.space.get(method.name)
        space = (
            method.search_space_for(resolve_model_kind(study.any_recipe))
            if override is None
            else to_search_space(override)
        )
    except ValueError as error:
        raise InputError(f"tune.space.{method.name}: {error}") from error
    if HEAD_LEARNING_RATE in space:
        raise InputError(
            f"tune.space.{method.name}: {HEAD_LEARNING_RATE} is tuned once for all methods in [tune.head]; remove it "
            "here"
        )
    if not space and not method.search_space:
        raise InputError(f"{method.name!r} declares no search space; add [tune.space.{method.name}]")
    axis_keys = {text.split("=", 1)[0] for layer in study.layers for text in to_overrides(layer)}
    if seeds := sorted({"run.init_seed", "run.order_seed"} & axis_keys):
        raise InputError(
            f"{study.label}: as an axis, {seeds[0]} would tune each of its values separately; use the axis seed, which "
            "also sets it"
        )
    conflicts = sorted(space.keys() & axis_keys)
    if conflicts:
        raise InputError(f"{study.label}: {conflicts[0]} is both an axis and tuned; remove one")
    return space


def resolve_model_kind(recipe: Recipe) -> ModelKind | None:
    """Find the model kind of a recipe from the model's config, which is downloaded for a hub model.

    Args:
        recipe: The recipe.

    Returns:
        The model kind.

    Raises:
        RunError: The config cannot be loaded.
    """
    kind = recipe.trained_kind(model_config(recipe.model.name))
    if kind is None:  # the config is on the hub
        from peftkit.models.load_base_model import load_objective  # imports torch

        kind, _ = load_objective(recipe)
    return kind


def load_grid(path: Path, registry: Registry, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> Grid:
    """Read a sweep's file, expand it, and check its tuning.

    Args:
        path: The sweep's file.
        registry: The installed components.
        overrides: ``key.path=value`` texts for all recipes.
        only: ``axis=value`` texts that restrict these axes to these values.

    Returns:
        The grid.

    Raises:
        InputError: The file, a recipe of the grid or its tuning is invalid.
        RunError: optuna is needed and not installed.
    """
    grid = expand(path, read_sweep(path), registry, overrides, only)
    check_tuning(grid, registry, overrides)
    return grid


def check_tuning(grid: Grid, registry: Registry, overrides: Sequence[str] = ()) -> None:
    """Check for problems of tuning that would otherwise occur in the middle of the sweep.

    Args:
        grid: The sweep.
        registry: The installed components.
        overrides: The overrides that the grid was expanded with.

    Raises:
        InputError: A space names an unknown method or has an empty range, or ``tune.set`` has a key that is unknown,
            invalid or an axis.
        RunError: optuna is needed and not installed.
    """
    tune, methods = grid.config.tune, registry.all("method")
    if not tune:
        return
    for key, name in [("tune.head.method", tune.head.method), *((f"tune.space.{name}", name) for name in tune.space)]:
        if name not in methods:
            raise InputError(f"{grid.path}: {key}: no method {name!r}{registry.suggest(name, 'method')}")
    if tune.trials >= MODEL_BASED_FROM:
        import_optuna()
    checked = set()
    for study in grid.studies:
        space, method = search_space_of(study, tune), study.any_recipe.method.name
        if method not in checked:
            checked.add(method)
            ends = [
                {key: each.low if isinstance(each, Range) else each[0] for key, each in space.items()},
                {key: each.high if isinstance(each, Range) else each[-1] for key, each in space.items()},
            ]
            for end in ends:
                try:
                    make_recipe(grid.path, grid.config, registry, (*study.layers, tune.set, unflatten(end)), overrides)
                except RecipeError as error:
                    raise RecipeError(relocate_problems(grid.path, f"{study.label}, tuned", error)) from error


def tune(
    target: TuningTarget,
    config: TuneConfig,
    design: TrialDesign,
    run_trial: RunTrial,
    valid: Callable[[Mapping[str, Any]], bool] = lambda settings: True,
) -> TuningResult:
    """Run the trials of a study one after the other.

    The design comes first, then two follow-ups beyond the best end of the range or around the best point inside, then a
    second seed of the two leading settings, which decides between them. If trials have another budget than the final
    runs, the two leading settings are also run with the final budget, and the better one wins.

    Args:
        target: What is tuned.
        config: The sweep's ``[tune]`` table.
        design: The number of trials.
        run_trial: Runs a trial.
        valid: Whether settings beyond the declared range make a valid recipe.

    Returns:
        The selected settings and the trials.

    Raises:
        RunError: Every trial failed, or optuna is needed and not installed.
    """
    return _TuningRun(target, config, design, run_trial, valid).result()


class _TuningRun:
    """The state of a tuning."""

    def __init__(
        self,
        target: TuningTarget,
        config: TuneConfig,
        design: TrialDesign,
        run_trial: RunTrial,
        valid: Callable[[Mapping[str, Any]], bool],
    ) -> None:
        recipe = target.recipe
        self.target, self.seed, self.design, self.run_trial = target, config.seed, design, run_trial
        free = (seed for seed in count(config.seed) if seed not in target.final_seeds)
        self.seeds = [next(free) for _ in range(design.total)]
        self.space = Space.from_search_space(target.search, valid)
        self.selector = Selector(
            recipe.selection_metric, recipe.higher_is_better(recipe.selection_metric), recipe.metric
        )
        self.step = 1 / (design.evenly_spaced - 1)
        self.trials: list[Trial] = []
        self.points: list[Point] = []

    def result(self) -> TuningResult:
        """Run all trials and select the best settings."""
        for point in self.space.start(self.design.evenly_spaced, self.seed):
            self._run_point(point, "design")
        self._run_model_based()
        if not self._rank():
            raise RunError(f"{self.target.label}: every trial failed")
        stage, follow_ups = self.space.follow_ups(self.points, self._point(self._rank()[0]), self.step)
        for point in follow_ups:
            self._run_point(point, stage)
        leaders = self._rank()[:NUM_LEADERS]
        for group in (leaders * NUM_LEADERS)[:NUM_LEADERS]:
            self._run_point(self._point(group), "repeat")
        leader_trials = [
            trial for trial in self.trials if any(trial.settings == group[0].settings for group in leaders)
        ]
        ranking = self.selector.rank(leader_trials)
        order_holds = None
        if self.design.transfer:
            transferred = [self._run_at_final_budget(group) for group in (ranking * NUM_LEADERS)[:NUM_LEADERS]]
            at_final_budget = self.selector.rank(transferred)
            if len(at_final_budget) == NUM_LEADERS:
                order_holds = at_final_budget[0][0].settings == ranking[0][0].settings
            ranking = at_final_budget or ranking
        best = ranking[0]
        return TuningResult(best[0].settings, tuple(self.trials), self._edges(best), order_holds)

    def _rank(self) -> list[list[Trial]]:
        return self.selector.rank(self.trials)

    def _point(self, group: Sequence[Trial]) -> Point:
        """The position of a setting; ``points`` and ``trials`` are parallel."""
        return self.points[next(i for i, trial in enumerate(self.trials) if trial.settings == group[0].settings)]

    def _run_point(self, point: Point, stage: Stage) -> Trial:
        """Run a trial, with the next seed if its settings were tried before, so that no trial is repeated."""
        settings = self.space.settings(point)
        seed = self.seeds[sum(trial.settings == settings for trial in self.trials)]
        self.trials.append(Trial(settings, seed, stage, self.run_trial(settings, seed, stage)))
        self.points.append(point)
        return self.trials[-1]

    def _run_at_final_budget(self, group: Sequence[Trial]) -> Trial:
        settings, point = group[0].settings, self._point(group)
        seed = self.seeds[sum(trial.settings == settings and trial.stage == "transfer" for trial in self.trials)]
        self.trials.append(Trial(settings, seed, "transfer", self.run_trial(settings, seed, "transfer")))
        self.points.append(point)
        return self.trials[-1]

    def _edges(self, best: Sequence[Trial]) -> tuple[dict[str, Any], ...]:
        """The axes on which the best settings are the outermost tried, at an end of the declared range or beyond it."""
        point = self._point(best)
        edges = self.space.edges(self.points, point, self.step)
        return tuple(
            {"key": axis.key, "end": end_name(edge), "value": best[0].settings[axis.key]}
            for axis, edge, position in zip(self.space.axes, edges, point, strict=True)
            if (edge > 0 and position >= 1 - TOLERANCE) or (edge < 0 and position <= TOLERANCE)
        )

    def _run_model_based(self) -> None:
        """Run the remaining trials as proposed by a model of the scores so far."""
        number = self.design.trials - self.design.evenly_spaced
        if not number:
            return
        search = ModelBasedSearch(
            self.space,
            seed=self.seed,
            num_start=self.design.evenly_spaced,
            higher_is_better=self.selector.higher_is_better,
        )
        for trial, point in zip(self.trials, self.points, strict=True):
            search.add(point, trial.settings, trial.score)
        for _ in range(number):
            search.try_next(lambda point: self._run_point(point, "model").score)
