"""Runs the trials of a tuning, and records it: ``tuning.json`` beside the trials and beside the final runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from peftkit.components import Between, Search
from peftkit.errors import InputError, RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, without_none
from peftkit.runs import RunDirectory
from peftkit.sweep.grid import Grid, Layer, Study, address, final_seeds, make, nested
from peftkit.sweep.heads import head_layer
from peftkit.sweep.selection import Measured, Stage, measured
from peftkit.sweep.tables import TuneTable
from peftkit.sweep.tuning import HEAD_RATE, Design, Subject, Tuned, space_of, tune

TUNING = "tuning.json"
Record = Mapping[str, Any]
"""What ``tuning.json`` holds."""
Once = Callable[[str, Recipe], RunDirectory | None]
"""Finds or makes a trial's run, from its label and its recipe; None where it failed."""
Failed = Callable[[str, str, tuple[str, ...], int], None]
"""Notes a failure: its label, where it is, the last lines, and how many runs more cannot follow."""


class Tuner:
    """The tuning of a sweep's studies and heads."""

    def __init__(self, grid: Grid, registry: Registry, overrides: Sequence[str] = ()) -> None:
        if grid.table.tune is None:
            raise ValueError("the sweep is not tuned")
        self.grid, self.registry, self.overrides = grid, registry, overrides
        self.table: TuneTable = grid.table.tune

    def subject(self, study: Study, head: Record | None = None) -> Subject:
        """A study as what is tuned.

        Args:
            study: one of the sweep's.
            head: the record of its head, if that was tuned.
        """
        layers = (*study.layers, head_layer(head))
        search = space_of(study, self.table)
        recipe, seeds = study.any_recipe, final_seeds(self.grid.table, study)
        return Subject(study.label, layers, recipe, search, self.table.trials, address(recipe), seeds)

    def design(self, subject: Subject) -> Design:
        """How many trials the subject is tuned with."""
        same = self.recipe(subject).train.budget == subject.recipe.train.budget
        return Design(subject.trials, transfer=0 if same else 2, searches=bool(subject.search))

    def recipe(
        self,
        subject: Subject,
        settings: Mapping[str, Any] | None = None,
        seed: int | None = None,
        stage: Stage = "design",
    ) -> Recipe:
        """The recipe of a trial.

        Raises:
            RecipeError: the settings make none.
        """
        run: Layer = {"run": {"seed": self.table.seed if seed is None else seed}}
        layers = (*subject.layers, self.table.set, nested(settings or {}), run)
        recipe = make(self.grid.path, self.grid.table, self.registry, layers, self.overrides)
        if stage == "transfer":  # as the trial, but at the final budget
            train = recipe.train.model_copy(update={"budget": subject.recipe.train.budget})
            recipe = recipe.model_copy(update={"train": train})
        output = str(self.folder(subject) / address(recipe))
        return recipe.model_copy(update={"run": recipe.run.model_copy(update={"output": output})})

    def folder(self, subject: Subject) -> Path:
        """Where the subject's trials run."""
        return self.grid.folder / "trials" / subject.folder

    def tuned(self, subject: Subject, once: Once, failed: Failed, *, finals: int = 0) -> Record | None:
        """Runs a subject's trials.

        Args:
            subject: what is tuned.
            once: makes a trial's run.
            failed: called with each failure.
            finals: runs that cannot follow if every trial fails.

        Returns:
            What ``tuning.json`` is to hold; None where every trial failed.
        """
        attempted = 0

        def attempt(settings: Mapping[str, Any], seed: int, stage: Stage) -> Measured | None:
            nonlocal attempted
            attempted += 1
            words = ", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in settings.items())
            label = f"{subject.label} · trial {attempted} ({stage}: {words})"
            try:
                recipe = self.recipe(subject, settings, seed, stage)
            except InputError as error:
                failed(label, "", tuple(str(error).splitlines()), 0)
                return None
            run = once(label, recipe)
            return None if run is None else measured(run)

        def valid(settings: Mapping[str, Any]) -> bool:
            try:
                self.recipe(subject, settings)
            except InputError:
                return False
            return True

        design = self.design(subject)
        try:
            nothing = Tuned({}, (), (), None)
            found = tune(subject, self.table, design, attempt, valid) if design.searches else nothing
        except RunError as error:
            failed(subject.label, str(self.folder(subject)), (str(error),), finals + design.total - attempted - 1)
            return None
        budgets = {"trials": self.recipe(subject).train.budget, "final": subject.recipe.train.budget}
        return {
            "design": design.record(),
            "trials": design.total,
            "gmacs": found.gmacs,
            "seed": self.table.seed,
            "selects": subject.recipe.selects,
            "higher_is_better": subject.recipe.higher_is_better(subject.recipe.selects),
            "space": _plain(subject.search),
            "settings": dict(found.settings),
            "at_edge": [dict(edge) for edge in found.at_edge],
            "transfer": {
                **{f"{which}_budget": without_none(of.model_dump(mode="json")) for which, of in budgets.items()},
                "order_holds": found.order_holds,
            }
            if design.transfer and design.searches
            else None,
            "tried": [trial.record() for trial in found.trials],
        }

    def head(self, subject: Subject, once: Once, failed: Failed, found: Callable[[int], None]) -> Record | None:
        """Tunes a head, or reads what the first that asked has recorded: jobs of a cluster wait for each other here.

        Args:
            subject: the head.
            once: makes a trial's run.
            failed: called with each failure.
            found: called with the number of trials that need not be run.

        Returns:
            What the ``tuning.json`` of its studies is to hold; None where every trial failed.
        """
        folder = self.folder(subject)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            record = self._recorded(subject)
            if record is None:
                record = self.tuned(subject, once, failed)
                if record is None:
                    return None
                RunDirectory(folder).write_json(TUNING, record)
            else:
                found(self.design(subject).total)
        return {
            "learning_rate": record["settings"][HEAD_RATE],
            "method": subject.recipe.method.name,
            **{key: record[key] for key in ("design", "trials", "gmacs", "space", "at_edge", "transfer", "tried")},
        }

    def _recorded(self, subject: Subject) -> Record | None:
        """The record of the very same tuning; it stays, so that all studies have one learning rate."""
        folder = self.folder(subject)
        if not (folder / TUNING).is_file():
            return None
        record = RunDirectory(folder).document(TUNING)
        same = (self.design(subject).record(), _plain(subject.search), self.table.seed)
        return record if (record.get("design"), record.get("space"), record.get("seed")) == same else None


def _plain(search: Search) -> dict[str, Any]:
    return {
        key: {"low": of.low, "high": of.high, "log": of.log} if isinstance(of, Between) else list(of)
        for key, of in search.items()
    }
