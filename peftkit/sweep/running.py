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

from peftkit.errors import InputError, Interrupted, PeftkitError, RunError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe
from peftkit.runs import RunDirectory, tuning_edges
from peftkit.sweep.grid import Grid, Study, address, make, nested
from peftkit.sweep.heads import head_layer, heads_of
from peftkit.sweep.reused import Reused
from peftkit.sweep.trials import TUNING, Record, Tuner
from peftkit.sweep.tuning import Subject
from peftkit.sweep.workers import Outcome, Workers

Say = Callable[[str], None]
Steps = list[Callable[[], "Steps"]]
"""What can be done now, each of which may give more."""
MARK = "sweep.json"


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

    def skipped(self, number: int) -> None:
        """Counts runs that need not be made."""
        with self._guard:
            self.done += number
            self.found += number


class Sweep:
    """A grid under way."""

    def __init__(self, grid: Grid, registry: Registry, workers: Workers, say: Say, overrides: Sequence[str] = ()):
        self.grid, self.registry, self.workers, self.overrides = grid, registry, workers, overrides
        self.tuner = Tuner(grid, registry, overrides) if grid.table.tune else None
        self.heads = heads_of(grid, registry, overrides)
        self.reused = Reused(registry)
        self.at_edge: dict[str, tuple[str, ...]] = {}
        """By the label of what was tuned, where its tuning stopped at the edge of its range."""
        total = sum(len(study.recipes) for study in grid.studies)
        if self.tuner:
            subjects = [*map(self.tuner.subject, grid.studies), *self._different_heads()]
            total += sum(self.tuner.design(subject).total for subject in subjects)
        self.progress = Progress(total, say)

    def run(self) -> list[Failure]:
        """Runs all that is not finished, and returns what failed.

        Raises:
            InputError: another process runs this sweep.
            Interrupted: a signal came; what was finished is kept, the rest goes on with the same command.
        """
        with alone(self.grid), self.workers.heeding_signals():
            # Studies follow from the step that tunes their head, so that no thread of the pool waits for another one.
            ready: deque[Callable[[], Steps]] = deque(partial(self._head, head) for head in self._different_heads())
            ready.extend(partial(self._study, study) for study in self.grid.studies if study.label not in self.heads)
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
        if not (self.grid.folder / MARK).is_file():  # submitting has written it; jobs beside each other would collide
            mark(self.grid)
        head = self.heads.get(study.label)
        record = self._tuned_head(head) if head else None
        if head is None or record is not None:
            for final in self._finals(study, record):
                self._once(final.label, final.recipe)
        return self.progress.failures

    def _different_heads(self) -> list[Subject]:
        return [*{head.folder: head for head in self.heads.values()}.values()]

    def _head(self, head: Subject) -> Steps:
        """Tunes a head; its studies can be run then."""
        with suppress(Interrupted):
            record = self._tuned_head(head)
            studies = [each for each in self.grid.studies if each.label in self.heads]
            studies = [each for each in studies if self.heads[each.label].folder == head.folder]
            if record is not None:
                return [partial(self._study, study, record) for study in studies]
            for study in studies:
                assert self.tuner is not None  # there are no heads without  # noqa: S101
                lost = self.tuner.design(self.tuner.subject(study)).total + len(study.recipes) - 1
                self._failed(study.label, "", (f"{head.label} could not be tuned",), lost)
        return []

    def _tuned_head(self, head: Subject) -> Record | None:
        assert self.tuner is not None  # there are no heads without  # noqa: S101
        record = self.tuner.head(head, self._trial, self._failed, self.progress.skipped)
        self._note_edges(head.label, record)
        return record

    def _note_edges(self, label: str, record: Record | None) -> None:
        if found := tuning_edges(record):
            self.at_edge[label] = found

    def _study(self, study: Study, head: Record | None = None) -> Steps:
        with suppress(Interrupted):
            return [partial(self._final, each) for each in self._finals(study, head)]
        return []

    def _final(self, final: Final) -> Steps:
        with suppress(Interrupted):
            self._once(final.label, final.recipe)
        return []

    def _finals(self, study: Study, head: Record | None = None) -> list[Final]:
        """What is to be run for each seed, tuned first."""
        finals: Mapping[int, Recipe] = study.recipes
        if self.tuner:
            subject = self.tuner.subject(study, head)
            record = self.tuner.tuned(subject, self._trial, self._failed, finals=len(study.recipes))
            if record is None:
                return []
            self._note_edges(study.label, record)
            record = {**record, "head": head, "study": address(study.any_recipe)}
            RunDirectory(self.tuner.folder(subject)).write_json(TUNING, record)
            finals = final_recipes(self.grid, study, self.registry, self.overrides)
            for recipe in finals.values():
                RunDirectory(Path(recipe.run.output)).write_json(TUNING, record)
            self._supersede(record)
        return [Final(f"{study.label} · seed {seed}", recipe) for seed, recipe in finals.items()]

    def _supersede(self, record: Record) -> None:
        """Marks final runs of the study that have the settings of an earlier tuning: comparisons leave them out."""
        for file in (self.grid.folder / "runs").glob(f"*/{TUNING}"):
            old = RunDirectory(file.parent).document(TUNING)
            if old.get("study") == record["study"] and _chosen(old) != _chosen(record):
                RunDirectory(file.parent).write_json(TUNING, {**old, "superseded": True})

    def _trial(self, label: str, recipe: Recipe) -> RunDirectory | None:
        """The run of a trial: one that diverged is the worst, and no failure, since it would diverge again."""
        return self._once(label, recipe, may_diverge=True)

    def _once(self, label: str, recipe: Recipe, *, may_diverge: bool = False) -> RunDirectory | None:
        """The finished run of a recipe: found, gone on with, or made; None where it fails."""

        def over(run: RunDirectory | None) -> bool:
            return run is not None and (run.finished or (may_diverge and run.diverged))

        there = found(recipe)
        if there is not None and over(there):
            try:
                self.reused.check(there.path, recipe)
            except PeftkitError as error:
                self._failed(label, "", (str(error),))
                return None
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
        if there is None or not over(there) or (outcome.code and not there.diverged):
            self._failed(label, str(log), outcome.last_lines)
            return None
        self.progress.ended(label, f"{_score(there)} ({clock(outcome.seconds)})", ran=True)
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
    record = recorded(grid, study)
    if record is None:
        return {}
    layers = (*study.layers, head_layer(record.get("head")), nested(record["settings"]))
    return {
        seed: make(grid.path, grid.table, registry, (*layers, {"run": {"seed": seed}}), overrides)
        for seed in study.recipes
    }


def recorded(grid: Grid, study: Study) -> Record | None:
    """The record of a study's tuning; None as long as it is not tuned.

    Raises:
        InputError: it cannot be read.
    """
    folder = grid.folder / "trials" / address(study.any_recipe)
    return RunDirectory(folder).document(TUNING) if (folder / TUNING).is_file() else None


def _chosen(record: Record) -> tuple[Any, Any]:
    """What a tuning sets in the final runs."""
    return record["settings"], (record.get("head") or {}).get("learning_rate")


def _score(run: RunDirectory) -> str:
    summary = run.summary()
    if run.diverged:
        return "diverged"
    score = summary["selected"]["dev"][summary["selects"]]
    return f"dev {summary['selects']} {'no number' if score is None else format(score, '.4g')}"


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
