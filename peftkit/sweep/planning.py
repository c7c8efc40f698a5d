"""What a sweep will take, before it is started."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from peftkit.errors import ModelError, PeftkitError, RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.runs import RunDirectory
from peftkit.sweep.grid import Grid, Refused, address
from peftkit.sweep.heads import heads_of
from peftkit.sweep.running import final_recipes, found
from peftkit.sweep.trials import Tuner
from peftkit.sweep.tuning import Subject


@dataclass(frozen=True)
class Planned:
    """One study of a plan, or a head that is tuned before some; its numbers are of all its runs together."""

    label: str
    seeds: tuple[int, ...]
    finished: int
    """Of its final runs."""
    trials: int
    """Runs of its tuning, whatever they find."""
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
    predictor = _Predictor(grid, registry, trial)
    tuner = Tuner(grid, registry, overrides) if grid.table.tune else None
    planned = []
    if tuner:
        try:
            heads = {head.folder: head for head in heads_of(grid, registry, overrides).values()}
            planned = [predictor.planned(head.label, (), 0, {}, tuner, head, say) for head in heads.values()]
        except (
            RunError,
            ModelError,
        ) as error:  # a hub that is away; studies of other models are predicted all the same
            planned = [Planned("new heads", (), 0, 0, None, None, str(error))]
    for study in grid.studies:
        done = sum(1 for each in final_recipes(grid, study, registry, overrides).values() if _finished(each))
        subject = tuner.subject(study) if tuner else None
        planned.append(predictor.planned(study.label, tuple(study.recipes), done, study.recipes, tuner, subject, say))
    return Plan(tuple(planned), grid.refused)


class _Predictor:
    """Predicts runs, and keeps what it predicts."""

    def __init__(self, grid: Grid, registry: Registry, trial: bool) -> None:
        self.grid, self.registry, self.trial = grid, registry, trial
        self.speeds: dict[tuple[str, str], float | None] = {}

    def planned(
        self,
        label: str,
        seeds: tuple[int, ...],
        finished: int,
        finals: Mapping[int, Recipe],
        tuner: Tuner | None,
        subject: Subject | None,
        say: Callable[[str], None],
    ) -> Planned:
        """All runs of a study, or of a head, which has no final ones."""
        design = tuner.design(subject) if tuner and subject else None
        trials = design.total if design else 0
        try:
            say(label)
            costs = [(self._of_one(next(iter(finals.values()))), len(finals))] if finals else []
            if tuner and subject and design:
                costs.append((self._of_one(tuner.recipe(subject)), design.total - design.transfer))
                if design.transfer:
                    at_final = tuner.recipe(subject, stage="transfer")
                    costs.append((self._of_one(at_final), design.transfer))
        except PeftkitError as error:
            return Planned(label, seeds, finished, trials, None, None, str(error))
        gmacs, seconds = (
            None if any(each[i] is None for each, _ in costs) else sum((each[i] or 0.0) * n for each, n in costs)
            for i in (0, 1)
        )
        return Planned(label, seeds, finished, trials, gmacs, seconds)

    def _of_one(self, recipe: Recipe) -> tuple[float | None, float | None]:
        """GMACs and seconds of one run."""
        file = self.grid.folder / "costs" / f"{address(recipe)}.json"
        known: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            known = json.loads(file.read_text(encoding="utf-8"))
        kind = recipe.model.name, json.dumps(recipe.method.model_dump(mode="json"), sort_keys=True)
        timed = known.get("seconds_per_step") is not None
        if not known or (self.trial and not timed and kind not in self.speeds):
            from peftkit.runner.prediction import predict_cost  # torch

            known = asdict(predict_cost(recipe, self.registry, trial=self.trial and kind not in self.speeds))
            RunDirectory(file.parent).write_json(file.name, known)
            timed = known["seconds_per_step"] is not None
        if timed:
            self.speeds.setdefault(kind, known["gmacs_per_step"] / known["seconds_per_step"])
        gmacs = known["gmacs"] if known["gmacs"] is not None else recipe.train.budget.gmacs
        speed = self.speeds.get(kind)
        return gmacs, None if gmacs is None or speed is None else gmacs / speed


def _finished(recipe: Recipe) -> bool:
    run = found(recipe)
    return run is not None and run.finished
