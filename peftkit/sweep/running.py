"""Runs what a sweep still lacks: finished runs are found again, failures are kept apart, nothing is run twice."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock, Timeout

from peftkit.errors import InputError, Interrupted, RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe
from peftkit.runs import RunDirectory
from peftkit.sweep.grid import Grid, Study, address, make
from peftkit.sweep.tuning import layer_of, tune_study
from peftkit.sweep.workers import Outcome, Workers

Say = Callable[[str], None]
Steps = list[Callable[[], "Steps"]]
"""What can be done now, each of which may give more."""
MARK = "sweep.json"
TUNING = "tuning.json"


@dataclass(frozen=True)
class Failure:
    """A run that failed, or a study that could not be tuned."""

    label: str
    where: str
    last_lines: tuple[str, ...]


@dataclass
class Progress:
    """What has been done of all."""

    total: int
    say: Say
    done: int = 0
    found: int = 0
    failures: list[Failure] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    _guard: Any = field(default_factory=Lock)

    def ended(self, label: str, text: str, *, ran: bool, lost: int = 0) -> None:
        """Counts a run, and ``lost`` more that cannot follow; tells how long the rest will take."""
        with self._guard:
            self.done += 1 + lost
            self.found += 0 if ran else 1
            now = self.done - self.found
            left = self.total - self.done
            rest = f"; {clock((time.monotonic() - self.began) / now * left)} left" if now and left and ran else ""
            if ran:
                self.say(f"[{self.done}/{self.total}] {label}: {text}{rest}")


class Sweep:
    """A grid under way."""

    def __init__(self, grid: Grid, registry: Registry, workers: Workers, say: Say, overrides: Sequence[str] = ()):
        self.grid, self.registry, self.workers, self.overrides = grid, registry, workers, overrides
        tune = grid.table.tune
        of_each = (tune.trials or 0) if tune else 0
        total = sum(of_each + len(study.recipes) for study in grid.studies)
        self.progress = Progress(total, say)

    def run(self) -> list[Failure]:
        """Runs all that is not finished, and returns what failed.

        Raises:
            InputError: another process runs this sweep.
            Interrupted: a signal came; what was finished is kept, the rest goes on with the same command.
        """
        with alone(self.grid), self.workers.heeding_signals():
            ready: deque[Callable[[], Steps]] = deque(partial(self._study, study) for study in self.grid.studies)
            with ThreadPoolExecutor(self.workers.jobs) as pool:
                pending: set[Future[Steps]] = set()
                while pending or (ready and not self.workers.stopped):
                    while ready and len(pending) < self.workers.jobs and not self.workers.stopped:
                        pending.add(pool.submit(ready.popleft()))
                    done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)  # so that signals are heard
                    for future in done:  # what has been tuned is finished before another study is begun
                        ready.extendleft(reversed(future.result()))
            if self.workers.stopped:
                raise Interrupted("the sweep was stopped; the same command goes on", self.workers.stopped)
        return self.progress.failures

    def do(self, study: Study) -> list[Failure]:
        """Runs one study by itself, as a job of a cluster does."""
        mark(self.grid)
        for final in self._finals(study):
            self._once(final.label, final.recipe)
        return self.progress.failures

    def _study(self, study: Study) -> Steps:
        with suppress(Interrupted):
            return [partial(self._final, each) for each in self._finals(study)]
        return []

    def _final(self, final: Final) -> Steps:
        with suppress(Interrupted):
            self._once(final.label, final.recipe)
        return []

    def _finals(self, study: Study) -> list[Final]:
        """What is to be run for each seed, tuned first."""
        tune = self.grid.table.tune
        if tune is None:
            return [Final(f"{study.label} · seed {seed}", recipe) for seed, recipe in study.recipes.items()]
        trials = self.grid.folder / "trials" / address(study.any_recipe)
        number = 0

        def attempt(settings: Mapping[str, Any]) -> RunDirectory | None:
            nonlocal number
            number += 1
            layers = (*study.layers, tune.set, layer_of(settings), {"run": {"seed": tune.seed}})
            told = ", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in settings.items())
            label = f"{study.label} · trial {number} ({told})"
            try:
                recipe = make(self.grid.path, self.grid.table, self.registry, layers, self.overrides)
            except InputError as error:
                self._failed(label, "", tuple(str(error).splitlines()))
                return None
            run = recipe.run.model_copy(update={"output": str(trials / address(recipe))})
            return self._once(label, recipe.model_copy(update={"run": run}))

        try:
            tuned = tune_study(study, tune, attempt)
        except RunError as error:
            self._failed(study.label, str(trials), (str(error),), lost=len(study.recipes) - 1)
            return []
        told = {
            "limit": {"trials": tune.trials} if tune.trials is not None else {"gmacs": tune.gmacs},
            "trials": len(tuned.trials),
            "gmacs": tuned.gmacs,
            "seed": tune.seed,
            "space": tuned.space,
            "settings": tuned.settings,
            "tried": tuned.trials,
        }
        RunDirectory(trials).write_json(TUNING, told)
        finals = final_recipes(self.grid, study, self.registry, self.overrides)
        for recipe in finals.values():
            RunDirectory(Path(recipe.run.output)).write_json(TUNING, told)
        return [Final(f"{study.label} · seed {seed}", recipe) for seed, recipe in finals.items()]

    def _once(self, label: str, recipe: Recipe) -> RunDirectory | None:
        """The finished run of a recipe: found, gone on with, or made; None where it fails."""
        there = found(recipe)
        if there is not None and there.finished:
            self.progress.ended(label, "found", ran=False)
            return there
        folder = Path(recipe.run.output)
        try:
            RunDirectory(folder).write_text("asked.toml", dump_recipe(recipe))
            log = folder / "log.txt"
            outcome = self.workers.run(folder / "asked.toml", None if there is None else there.path, log)
        except RunError as error:
            outcome = Outcome(1, 0.0, (str(error),))
        there = found(recipe)
        if outcome.code or there is None or not there.finished:
            self._failed(label, str(log), outcome.last_lines)
            return None
        summary = there.summary()
        score = summary["selected"]["dev"][summary["selects"]]
        self.progress.ended(label, f"dev {summary['selects']} {score:.4g} ({clock(outcome.seconds)})", ran=True)
        return there

    def _failed(self, label: str, where: str, lines: tuple[str, ...], lost: int = 0) -> None:
        self.progress.failures.append(Failure(label, where, lines))
        self.progress.ended(label, f"failed: {lines[-1] if lines else ''}", ran=True, lost=lost)


@dataclass(frozen=True)
class Final:
    """A run of which the comparison is made."""

    label: str
    recipe: Recipe


def final_recipes(grid: Grid, study: Study, registry: Registry, overrides: Sequence[str] = ()) -> Mapping[int, Recipe]:
    """What is run for each seed; nothing as long as it is not tuned.

    Raises:
        InputError: the study's tuning cannot be read.
    """
    if grid.table.tune is None:
        return study.recipes
    folder = grid.folder / "trials" / address(study.any_recipe)
    if not (folder / TUNING).is_file():
        return {}
    settings = layer_of(RunDirectory(folder).document(TUNING)["settings"])
    return {
        seed: make(grid.path, grid.table, registry, (*study.layers, settings, {"run": {"seed": seed}}), overrides)
        for seed in study.recipes
    }


def found(recipe: Recipe) -> RunDirectory | None:
    """The run of a recipe in its folder: a finished one, else the latest that can be gone on with."""
    folders = sorted((file.parent for file in Path(recipe.run.output).glob("*/recipe.toml")), reverse=True)
    runs = [RunDirectory(folder) for folder in folders]
    return next((run for run in runs if run.finished), runs[0] if runs else None)


def mark(grid: Grid) -> None:
    """Says in the sweep's folder what it is: readers of runs pass over its trials."""
    grid.folder.mkdir(parents=True, exist_ok=True)
    studies = [
        {"label": s.label, "values": dict(s.values), "method": s.any_recipe.method.name, "seeds": [*s.recipes]}
        for s in grid.studies
    ]
    refused = [vars(each) for each in grid.refused]
    RunDirectory(grid.folder).write_json(MARK, {"name": grid.table.name, "studies": studies, "refused": refused})


@contextmanager
def alone(grid: Grid) -> Iterator[None]:
    """Keeps a second process from running the same sweep.

    Raises:
        InputError: there is one.
    """
    mark(grid)
    held = FileLock(grid.folder / ".lock")
    try:
        held.acquire(blocking=False)
    except Timeout as error:
        raise InputError(f"{grid.folder}: the sweep is being run by another process") from error
    try:
        yield
    finally:
        held.release()


def clock(seconds: float) -> str:
    """A duration, as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
