"""Equal tuning: every study runs as many trials by the same design, judged on dev only.

What is tried next is a function of the seed and of the trials before, so that a sweep that was interrupted finds its
own trials again: nothing is kept but their run directories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from peftkit.components import Between, ModelKind, Search
from peftkit.errors import InputError, RecipeError, RunError, did_you_mean
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.names import model_config, model_kind
from peftkit.sweep.design import FOLLOW_UPS, NEAR, Point, Space, end_of
from peftkit.sweep.grid import Grid, Layer, Study, as_overrides, make, nested, problems_at
from peftkit.sweep.selection import Measured, Selector, Stage, Trial
from peftkit.sweep.tables import MODEL_BASED, TuneTable, search_of

HEAD_RATE = "train.head_learning_rate"
LEADING = 2
"""Settings that are repeated with a second seed, and run at the final budget where trials had another one."""
EVEN = 5
"""Trials of a model-based search that are spaced evenly, at least; of many a third."""
Attempt = Callable[[Mapping[str, Any], int, Stage], Measured | None]
"""Runs a trial with these settings, this seed, for this stage; None where it failed."""


@dataclass(frozen=True)
class Design:
    """How many trials a study runs, by stage: the same for every outcome."""

    trials: int
    """Before the follow-ups, model-based ones among them."""
    transfer: int = 0
    """Runs at the final budget, where trials have another one."""
    searches: bool = True
    """Whether there is anything to search: a method that trains an encoder's head alone is tuned with the head."""

    @property
    def even(self) -> int:
        """Trials that are spaced evenly."""
        return self.trials if self.trials < MODEL_BASED else max(EVEN, self.trials // 3)

    @property
    def total(self) -> int:
        """All runs of a study's tuning."""
        return self.trials + FOLLOW_UPS + LEADING + self.transfer if self.searches else 0

    def record(self) -> dict[str, int]:
        """The design as ``tuning.json`` has it; methods are tuned equally where these are the same."""
        return {
            "trials": self.trials,
            "model_based": self.trials - self.even,
            "follow_ups": FOLLOW_UPS,
            "repeats": LEADING,
            "transfer": self.transfer,
        }


@dataclass(frozen=True)
class Subject:
    """What is tuned: a method for a study, or the new head of a model for a task."""

    label: str
    layers: tuple[Layer, ...]
    """Of its recipes, without the settings."""
    recipe: Recipe
    """Without the settings, at the final budget."""
    search: Search
    trials: int
    folder: str
    """Where its trials run, below the sweep's folder ``trials``."""
    final_seeds: frozenset[int] = frozenset()
    """Seeds that trials do not have: what is chosen by a seed's dev would be too good on its test."""


@dataclass(frozen=True)
class Tuned:
    """What tuning has found, and what it took."""

    settings: Mapping[str, Any]
    trials: tuple[Trial, ...]
    at_edge: tuple[Mapping[str, Any], ...]
    """The axes on whose end the best setting is, even after the extension."""
    order_holds: bool | None
    """Whether the leading settings come in the same order at the final budget; None where trials have that budget,
    or fewer than two of these runs have a score."""

    @property
    def gmacs(self) -> float:
        """Of all trials that finished."""
        return sum(trial.measured.gmacs for trial in self.trials if trial.measured)


def space_of(study: Study, tune: TuneTable) -> Search:
    """What the study's trials search; nothing where the method trains the classification head alone.

    Raises:
        InputError: an axis sets one of these keys already, a range is empty, or a key has a tuning of its own.
    """
    method = study.any_recipe.method
    try:
        given = tune.space.get(method.name)
        space = method.search_for(kind_of(study.any_recipe)) if given is None else search_of(given)
    except ValueError as error:
        raise InputError(f"tune.space.{method.name}: {error}") from error
    if HEAD_RATE in space:
        raise InputError(
            f"tune.space.{method.name}: {HEAD_RATE} is tuned once for all methods, in [tune.head]; leave it out here"
        )
    if not space and not method.search:
        raise InputError(f"{method.name!r} declares nothing to tune; give [tune.space.{method.name}]")
    taken = {text.split("=", 1)[0] for layer in study.layers for text in as_overrides(layer)}
    if seeds := sorted({"run.init_seed", "run.order_seed"} & taken):
        raise InputError(
            f"{study.label}: as an axis, {seeds[0]} would tune each of its values apart; use the axis seed, which it "
            "follows"
        )
    twice = sorted(space.keys() & taken)
    if twice:
        raise InputError(f"{study.label}: {twice[0]} is an axis and tuned, too; leave one out")
    return space


def kind_of(recipe: Recipe) -> ModelKind | None:
    """The kind of a recipe's model, by its config; that of a model on a hub is loaded from there.

    Raises:
        RunError: it cannot be loaded.
    """
    kind = model_kind(model_config(recipe.model.name))
    if kind is None:  # on a hub, which alone knows
        from peftkit.runner.models import load_form  # torch

        kind, _ = load_form(recipe)
    return kind


def check_tuning(grid: Grid, registry: Registry, overrides: Sequence[str] = ()) -> None:
    """Refuses tuning that would go wrong in the middle of the sweep.

    Args:
        grid: the sweep.
        registry: the installed components.
        overrides: those that the grid was expanded with.

    Raises:
        InputError: a space is of no method, a range of it is empty, or what trials change is no key of a recipe, is
            of a value that it cannot have, or is an axis.
        RunError: optuna is needed and not installed.
    """
    tune, methods = grid.table.tune, registry.of("method")
    if not tune:
        return
    for key, name in [("tune.head.method", tune.head.method), *((f"tune.space.{name}", name) for name in tune.space)]:
        if name not in methods:
            raise InputError(f"{grid.path}: {key}: there is no method {name!r}{did_you_mean(name, methods)}")
    if tune.trials >= MODEL_BASED:
        _optuna()
    tried = set()
    for study in grid.studies:
        space, method = space_of(study, tune), study.any_recipe.method.name
        if method not in tried:
            tried.add(method)
            ends = [
                {key: each.low if isinstance(each, Between) else each[0] for key, each in space.items()},
                {key: each.high if isinstance(each, Between) else each[-1] for key, each in space.items()},
            ]
            for end in ends:
                try:
                    make(grid.path, grid.table, registry, (*study.layers, tune.set, nested(end)), overrides)
                except RecipeError as error:
                    raise RecipeError(problems_at(grid.path, f"{study.label}, tuned", error)) from error


def tune(
    subject: Subject,
    table: TuneTable,
    design: Design,
    attempt: Attempt,
    valid: Callable[[Mapping[str, Any]], bool] = lambda settings: True,
) -> Tuned:
    """Runs the trials of a study, one after the other.

    First the design, then two follow-ups beyond the end of the range that won or around the best point inside, then
    a second seed of the leading two settings, which decides between them. Where trials have another budget than the
    final runs, the leading two run at the final one, too, and the better of these wins.

    Args:
        subject: what is tuned.
        table: the sweep's ``[tune]``.
        design: how many trials.
        attempt: runs a trial.
        valid: whether settings beyond the declared range make a valid recipe.

    Raises:
        RunError: every trial failed, or optuna is needed and not installed.
    """
    return _Tuning(subject, table, design, attempt, valid).result()


class _Tuning:
    """The trials of a study so far."""

    def __init__(
        self,
        subject: Subject,
        table: TuneTable,
        design: Design,
        attempt: Attempt,
        valid: Callable[[Mapping[str, Any]], bool],
    ) -> None:
        recipe = subject.recipe
        self.subject, self.seed, self.design, self.attempt = subject, table.seed, design, attempt
        free = (seed for seed in count(table.seed) if seed not in subject.final_seeds)
        self.seeds = [next(free) for _ in range(design.total)]
        self.space = Space.of(subject.search, valid)
        self.selector = Selector(recipe.selects, recipe.higher_is_better(recipe.selects), recipe.metric)
        self.step = 1 / (design.even - 1)
        self.trials: list[Trial] = []
        self.points: list[Point] = []

    def result(self) -> Tuned:
        for point in self.space.start(self.design.even, self.seed):
            self._try(point, "design")
        self._model_based()
        if not self._ranked():
            raise RunError(f"{self.subject.label}: every trial failed")
        stage, further = self.space.follow_ups(self.points, self._point(self._ranked()[0]), self.step)
        for point in further:
            self._try(point, stage)
        leading = self._ranked()[:LEADING]
        for group in (leading * LEADING)[:LEADING]:
            self._try(self._point(group), "repeat")
        again = [trial for trial in self.trials if any(trial.settings == group[0].settings for group in leading)]
        final = self.selector.ranked(again)
        order_holds = None
        if self.design.transfer:
            transferred = [self._transfer(group) for group in (final * LEADING)[:LEADING]]
            at_final_budget = self.selector.ranked(transferred)
            if len(at_final_budget) == LEADING:
                order_holds = at_final_budget[0][0].settings == final[0][0].settings
            final = at_final_budget or final
        best = final[0]
        return Tuned(best[0].settings, tuple(self.trials), self._edges(best), order_holds)

    def _ranked(self) -> list[list[Trial]]:
        return self.selector.ranked(self.trials)

    def _point(self, group: Sequence[Trial]) -> Point:
        """The position of a setting; ``points`` has one for each of ``trials``."""
        return self.points[next(i for i, trial in enumerate(self.trials) if trial.settings == group[0].settings)]

    def _try(self, point: Point, stage: Stage) -> Trial:
        """Runs a trial, with the next seed where its settings were tried already, so that no trial is another one."""
        settings = self.space.settings(point)
        seed = self.seeds[sum(trial.settings == settings for trial in self.trials)]
        self.trials.append(Trial(settings, seed, stage, self.attempt(settings, seed, stage)))
        self.points.append(point)
        return self.trials[-1]

    def _transfer(self, group: Sequence[Trial]) -> Trial:
        settings, point = group[0].settings, self._point(group)
        seed = self.seeds[sum(trial.settings == settings and trial.stage == "transfer" for trial in self.trials)]
        self.trials.append(Trial(settings, seed, "transfer", self.attempt(settings, seed, "transfer")))
        self.points.append(point)
        return self.trials[-1]

    def _edges(self, best: Sequence[Trial]) -> tuple[dict[str, Any], ...]:
        """Where the best settings are the outermost that were tried, at an end of the declared range or beyond it."""
        point = self._point(best)
        ways = self.space.edges(self.points, point, self.step)
        return tuple(
            {"key": axis.key, "end": end_of(way), "value": best[0].settings[axis.key]}
            for axis, way, at in zip(self.space.axes, ways, point, strict=True)
            if (way > 0 and at >= 1 - NEAR) or (way < 0 and at <= NEAR)
        )

    def _model_based(self) -> None:
        """The rest of many trials, proposed by a tree-structured Parzen estimator (Bergstra et al., 2011)."""
        number = self.design.trials - self.design.even
        if not number:
            return
        optuna = _optuna()
        distributions = {
            axis.key: optuna.distributions.FloatDistribution(0.0, 1.0)
            if axis.is_range
            else optuna.distributions.CategoricalDistribution([(i + 0.5) / len(axis.of) for i in range(len(axis.of))])  # type: ignore[arg-type]
            for axis in self.space.axes
        }
        sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=self.design.even)
        search = optuna.create_study(direction="maximize" if self.selector.higher else "minimize", sampler=sampler)
        pruned = optuna.trial.TrialState.PRUNED  # ranks after every trial that has a score, and still counts
        for trial, point in zip(self.trials, self.points, strict=True):
            placed = [
                at if axis.is_range else axis.position(trial.settings[axis.key])
                for axis, at in zip(self.space.axes, point, strict=True)
            ]
            told = {"value": trial.score} if trial.score is not None else {"state": pruned}
            params = dict(zip(distributions, placed, strict=True))
            search.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, **told))
        for _ in range(number):
            asked = search.ask(distributions)
            score = self._try(tuple(asked.params[axis.key] for axis in self.space.axes), "model").score
            if score is None:
                search.tell(asked, state=pruned)
            else:
                search.tell(asked, score)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise RunError(f"{MODEL_BASED} trials and more need optuna: pip install 'peftkit[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
