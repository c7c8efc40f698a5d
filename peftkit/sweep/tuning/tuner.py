"""Run the trials of a tuning and record them in ``tuning.json``, beside the trials and the final runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from peftkit.components import Range, SearchSpace
from peftkit.errors import InputError, RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, drop_none
from peftkit.run_directory import RunDirectory
from peftkit.sweep.grid import Grid, Layer, Study, final_seeds, make_recipe, recipe_hash, unflatten
from peftkit.sweep.sweep_file import TuneConfig
from peftkit.sweep.tuning.head_tuning import head_layer
from peftkit.sweep.tuning.trial_design import TrialDesign
from peftkit.sweep.tuning.trial_selection import Stage, TrialResult, read_trial_result
from peftkit.sweep.tuning.tuning_stages import HEAD_LEARNING_RATE, TuningResult, TuningTarget, search_space_of, tune

TUNING = "tuning.json"
Record = Mapping[str, Any]
"""The contents of ``tuning.json``."""
RunOnce = Callable[[str, Recipe], RunDirectory | None]
"""Reuse or run a trial, by its label and recipe; returns None if it failed."""
ReportFailure = Callable[[str, str, tuple[str, ...], int], None]
"""Report a failure: label, log file, last lines, and how many further runs are canceled."""


class Tuner:
    """Tune the studies and heads of a sweep."""

    def __init__(self, grid: Grid, registry: Registry, overrides: Sequence[str] = ()) -> None:
        if grid.config.tune is None:
            raise ValueError("the sweep is not tuned")
        self.grid, self.registry, self.overrides = grid, registry, overrides
        self.config: TuneConfig = grid.config.tune
        self._recipes: dict[str, Recipe] = {}

    def target_for(self, study: Study, head: Record | None = None) -> TuningTarget:
        """Build the tuning target of a study.

        Args:
            study: One of the sweep's studies.
            head: The tuning record of its head, if that was tuned.

        Returns:
            The target.
        """
        layers = (*study.layers, head_layer(head))
        search = search_space_of(study, self.config)
        recipe, seeds = study.any_recipe, final_seeds(self.grid.config, study)
        return TuningTarget(study.label, layers, recipe, search, self.config.trials, recipe_hash(recipe), seeds)

    def design(self, target: TuningTarget) -> TrialDesign:
        """Return the number of trials of a target."""
        same_budget = self.recipe(target).train.budget == target.recipe.train.budget
        return TrialDesign(target.trials, transfer=0 if same_budget else 2, searches=bool(target.search))

    def recipe(
        self,
        target: TuningTarget,
        settings: Mapping[str, Any] | None = None,
        seed: int | None = None,
        stage: Stage = "design",
    ) -> Recipe:
        """Build the recipe of a trial.

        Args:
            target: What is tuned.
            settings: The values to try, by recipe key.
            seed: The seed of the run; None for ``tune.seed``.
            stage: The stage of the trial; ``transfer`` uses the final budget.

        Returns:
            The recipe.

        Raises:
            RecipeError: The recipe is invalid with these settings.
        """
        run: Layer = {"run": {"seed": self.config.seed if seed is None else seed}}
        layers = (*target.layers, self.config.set, unflatten(settings or {}), run)
        recipe = self._make_recipe(layers)
        if recipe.probe:  # they select nothing
            recipe = recipe.model_copy(update={"probe": ()})
        if stage == "transfer":  # the trial's recipe with the final budget
            train = recipe.train.model_copy(update={"budget": target.recipe.train.budget})
            recipe = recipe.model_copy(update={"train": train})
        output = str(self.folder(target) / recipe_hash(recipe))
        return recipe.model_copy(update={"run": recipe.run.model_copy(update={"output": output})})

    def _make_recipe(self, layers: Sequence[Layer]) -> Recipe:
        """Build a recipe of these layers, once."""
        key = repr(layers)
        if key not in self._recipes:
            self._recipes[key] = make_recipe(self.grid.path, self.grid.config, self.registry, layers, self.overrides)
        return self._recipes[key]

    def folder(self, target: TuningTarget) -> Path:
        """The folder of a target's trials."""
        return self.grid.folder / "trials" / target.folder

    def tune(
        self, target: TuningTarget, run_once: RunOnce, report_failure: ReportFailure, *, finals: int = 0
    ) -> Record | None:
        """Run a target's trials.

        Args:
            target: What is tuned.
            run_once: Runs a trial.
            report_failure: Called with each failure.
            finals: Final runs that are canceled if every trial fails.

        Returns:
            The contents of ``tuning.json``; None if every trial failed.
        """
        attempted = 0

        def attempt(settings: Mapping[str, Any], seed: int, stage: Stage) -> TrialResult | None:
            nonlocal attempted
            attempted += 1
            values = ", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in settings.items())
            label = f"{target.label} · trial {attempted} ({stage}: {values})"
            try:
                recipe = self.recipe(target, settings, seed, stage)
            except InputError as error:
                report_failure(label, "", tuple(str(error).splitlines()), 0)
                return None
            run = run_once(label, recipe)
            return None if run is None else read_trial_result(run)

        def valid(settings: Mapping[str, Any]) -> bool:
            try:
                self.recipe(target, settings)
            except InputError:
                return False
            return True

        design = self.design(target)
        try:
            empty = TuningResult({}, (), (), None)
            result = tune(target, self.config, design, attempt, valid) if design.searches else empty
        except RunError as error:
            report_failure(target.label, str(self.folder(target)), (str(error),), finals + design.total - attempted - 1)
            return None
        budgets = {"trials": self.recipe(target).train.budget, "final": target.recipe.train.budget}
        return {
            "design": design.to_json(),
            "trials": design.total,
            "gmacs": result.gmacs,
            "seed": self.config.seed,
            "selection_metric": target.recipe.selection_metric,
            "higher_is_better": target.recipe.higher_is_better(target.recipe.selection_metric),
            "space": _search_space_to_json(target.search),
            "settings": dict(result.settings),
            "at_edge": [dict(edge) for edge in result.at_edge],
            "transfer": {
                **{f"{which}_budget": drop_none(b.model_dump(mode="json")) for which, b in budgets.items()},
                "order_holds": result.order_holds,
            }
            if design.transfer and design.searches
            else None,
            "tried": [trial.to_json() for trial in result.trials],
        }

    def tune_head(
        self, target: TuningTarget, run_once: RunOnce, report_failure: ReportFailure, skip: Callable[[int], None]
    ) -> Record | None:
        """Tune a head, or read the record of a tuning that is finished; concurrent cluster jobs wait for each other.

        Args:
            target: The head.
            run_once: Runs a trial.
            report_failure: Called with each failure.
            skip: Called with the number of trials that need not run.

        Returns:
            The ``head`` entry of the studies' ``tuning.json``; None if every trial failed.
        """
        folder = self.folder(target)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            record = self._read_record(target)
            if record is None:
                record = self.tune(target, run_once, report_failure)
                if record is None:
                    return None
                RunDirectory(folder).write_json(TUNING, record)
            else:
                skip(self.design(target).total)
        return {
            "learning_rate": record["settings"][HEAD_LEARNING_RATE],
            "method": target.recipe.method.name,
            **{key: record[key] for key in ("design", "trials", "gmacs", "space", "at_edge", "transfer", "tried")},
        }

    def _read_record(self, target: TuningTarget) -> Record | None:
        """Read the record of an identical tuning, which is kept so that all studies use the same learning rate."""
        folder = self.folder(target)
        if not (folder / TUNING).is_file():
            return None
        record = RunDirectory(folder).read_json(TUNING)
        expected = (self.design(target).to_json(), _search_space_to_json(target.search), self.config.seed)
        return record if (record.get("design"), record.get("space"), record.get("seed")) == expected else None


def _search_space_to_json(search: SearchSpace) -> dict[str, Any]:
    return {
        key: {"low": r.low, "high": r.high, "log": r.log} if isinstance(r, Range) else list(r)
        for key, r in search.items()
    }
