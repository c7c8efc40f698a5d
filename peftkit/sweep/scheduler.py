"""Schedule a sweep: reuse finished runs, run the others, and collect failures."""

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

from peftkit.errors import InputError, PeftkitError, RunError, RunInterrupted
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe
from peftkit.run_directory import RunDirectory, tuning_edges
from peftkit.sweep.grid import Grid, Study, make_recipe, recipe_hash, unflatten
from peftkit.sweep.process_executor import Outcome, Workers
from peftkit.sweep.reused_runs import ReuseCheck
from peftkit.sweep.tuning.head_tuning import find_heads, head_layer
from peftkit.sweep.tuning.tuner import TUNING, Record, Tuner
from peftkit.sweep.tuning.tuning_stages import TuningTarget

Say = Callable[[str], None]
Jobs = list[Callable[[], "Jobs"]]
"""Jobs that are ready; each returns the jobs that it makes ready."""
MARKER = "sweep.json"


@dataclass(frozen=True)
class Failure:
    """A run that failed, or a study that could not be tuned."""

    label: str
    log: str
    last_lines: tuple[str, ...]


@dataclass
class SweepProgress:
    """The progress of a sweep, in runs."""

    total: int
    say: Say
    done: int = 0
    reused: int = 0
    failures: list[Failure] = field(default_factory=list)
    start_time: float = field(default_factory=time.monotonic)
    _lock: Any = field(default_factory=Lock)

    def add_run(self, label: str, result: str, *, ran: bool, lost: int = 0) -> None:
        """Count a finished run and print it with the estimated time left.

        Args:
            label: The label of the run.
            result: Its result, as text.
            ran: Whether it was run, not reused.
            lost: Further runs that are canceled.
        """
        with self._lock:
            self.done += 1 + lost
            self.reused += 0 if ran else 1
            newly_run = self.done - self.reused
            remaining = self.total - self.done
            time_left = (
                f"; {format_duration((time.monotonic() - self.start_time) / newly_run * remaining)} left"
                if newly_run and remaining and ran
                else ""
            )
            if ran:
                self.say(f"[{self.done}/{self.total}] {label}: {result}{time_left}")

    def add_reused(self, number: int) -> None:
        """Count runs that are not needed."""
        with self._lock:
            self.done += number
            self.reused += number


class Sweep:
    """A sweep that is being run."""

    def __init__(self, grid: Grid, registry: Registry, workers: Workers, say: Say, overrides: Sequence[str] = ()):
        self.grid, self.registry, self.workers, self.overrides = grid, registry, workers, overrides
        self.tuner = Tuner(grid, registry, overrides) if grid.config.tune else None
        self.heads = find_heads(grid, registry, overrides)
        self.reuse_check = ReuseCheck(registry)
        self.at_edge: dict[str, tuple[str, ...]] = {}
        """By the label of a tuning, the keys whose best value is at the edge of the range."""
        total = sum(len(study.recipes) for study in grid.studies)
        if self.tuner:
            targets = [*map(self.tuner.target_for, grid.studies), *self._distinct_heads()]
            total += sum(self.tuner.design(target).total for target in targets)
        self.progress = SweepProgress(total, say)

    def run(self) -> list[Failure]:
        """Run everything that is not finished, and return the failures.

        Raises:
            InputError: Another process is running this sweep.
            RunInterrupted: A signal stopped the sweep; finished runs are kept, and the same command resumes the rest.
        """
        with sweep_lock(self.grid), self.workers.handle_signals():
            # Studies become ready when their head is tuned, so that no thread of the pool waits for another.
            ready: deque[Callable[[], Jobs]] = deque(partial(self._head_job, head) for head in self._distinct_heads())
            ready.extend(
                partial(self._study_job, study) for study in self.grid.studies if study.label not in self.heads
            )
            run_jobs(ready, self.workers)
        return self.progress.failures

    def run_one(self, study: Study) -> list[Failure]:
        """Run one study alone, as a cluster job does."""
        if not (self.grid.folder / MARKER).is_file():  # usually written by submit; concurrent jobs must not rewrite it
            write_marker(self.grid)
        head = self.heads.get(study.label)
        record = self._tune_head(head) if head else None
        if head is None or record is not None:
            for final in self._tune_and_list_finals(study, record):
                self._run_or_reuse(final.label, final.recipe)
        return self.progress.failures

    def _distinct_heads(self) -> list[TuningTarget]:
        return [*{head.folder: head for head in self.heads.values()}.values()]

    def _head_job(self, head: TuningTarget) -> Jobs:
        """Tune a head, which makes its studies ready."""
        with suppress(RunInterrupted):
            record = self._tune_head(head)
            studies = [each for each in self.grid.studies if each.label in self.heads]
            studies = [each for each in studies if self.heads[each.label].folder == head.folder]
            if record is not None:
                return [partial(self._study_job, study, record) for study in studies]
            for study in studies:
                assert self.tuner is not None  # heads exist only in tuned sweeps  # noqa: S101
                lost = self.tuner.design(self.tuner.target_for(study)).total + len(study.recipes) - 1
                self._report_failure(study.label, "", (f"{head.label} could not be tuned",), lost)
        return []

    def _tune_head(self, head: TuningTarget) -> Record | None:
        assert self.tuner is not None  # heads exist only in tuned sweeps  # noqa: S101
        run_trial = partial(self._run_trial, head)
        record = self.tuner.tune_head(head, run_trial, self._report_failure, self.progress.add_reused)
        self._note_edges(head.label, record)
        return record

    def _note_edges(self, label: str, record: Record | None) -> None:
        if edges := tuning_edges(record):
            self.at_edge[label] = edges

    def _study_job(self, study: Study, head: Record | None = None) -> Jobs:
        with suppress(RunInterrupted):
            return [partial(self._final_job, each) for each in self._tune_and_list_finals(study, head)]
        return []

    def _final_job(self, final: FinalRun) -> Jobs:
        with suppress(RunInterrupted):
            self._run_or_reuse(final.label, final.recipe)
        return []

    def _tune_and_list_finals(self, study: Study, head: Record | None = None) -> list[FinalRun]:
        """Tune a study and return its final runs."""
        finals: Mapping[int, Recipe] = study.recipes
        if self.tuner:
            target = self.tuner.target_for(study, head)
            run_trial = partial(self._run_trial, target)
            record = self.tuner.tune(target, run_trial, self._report_failure, finals=len(study.recipes))
            if record is None:
                return []
            self._note_edges(study.label, record)
            record = {**record, "head": head, "study": recipe_hash(study.any_recipe)}
            RunDirectory(self.tuner.folder(target)).write_json(TUNING, record)
            finals = final_recipes(self.grid, study, self.registry, self.overrides)
            for recipe in finals.values():
                RunDirectory(Path(recipe.run.output)).write_json(TUNING, record)
            self._supersede(record)
        return [FinalRun(f"{study.label} · seed {seed}", recipe, study.label) for seed, recipe in finals.items()]

    def _supersede(self, record: Record) -> None:
        """Mark final runs of the study with settings of an earlier tuning, so that comparisons leave them out."""
        for file in (self.grid.folder / "runs").glob(f"*/{TUNING}"):
            old = RunDirectory(file.parent).read_json(TUNING)
            if old.get("study") == record["study"] and _final_settings(old) != _final_settings(record):
                RunDirectory(file.parent).write_json(TUNING, {**old, "superseded": True})

    def _run_trial(self, target: TuningTarget, label: str, recipe: Recipe) -> RunDirectory | None:
        """Run a trial; one that diverged is the worst result and not a failure, because it would diverge again."""
        return self._run_or_reuse(label, recipe, may_diverge=True)

    def _add_time(self, recipe: Recipe, run: RunDirectory, seconds: float) -> None:
        """Note how long a run took that was not reused; nothing here depends on it."""

    def _run_or_reuse(self, label: str, recipe: Recipe, *, may_diverge: bool = False) -> RunDirectory | None:
        """Reuse, resume or start the run of a recipe; returns None if it fails."""

        def is_complete(run: RunDirectory | None) -> bool:
            return run is not None and (run.finished or (may_diverge and run.diverged))

        run = find_run(recipe)
        if run is not None and is_complete(run):
            try:
                self.reuse_check.check(run.path, recipe)
            except PeftkitError as error:
                self._report_failure(label, "", (str(error),))
                return None
            self.progress.add_run(label, "reused", ran=False)
            return run
        folder = Path(recipe.run.output)
        try:
            RunDirectory(folder).write_text("asked.toml", dump_recipe(recipe))
            log = folder / "log.txt"
            outcome = self.workers.run(folder / "asked.toml", None if run is None else run.path, log)
        except RunError as error:
            outcome = Outcome(1, 0.0, (str(error),))
        run = find_run(recipe)
        if run is None or not is_complete(run) or (outcome.code and not run.diverged):
            self._report_failure(label, str(log), outcome.last_lines)
            return None
        self._add_time(recipe, run, outcome.seconds)
        self.progress.add_run(label, f"{_format_score(run)} ({format_duration(outcome.seconds)})", ran=True)
        return run

    def _report_failure(self, label: str, where: str, last_lines: tuple[str, ...], lost: int = 0) -> None:
        self.progress.failures.append(Failure(label, where, last_lines))
        self.progress.add_run(label, f"failed: {last_lines[-1] if last_lines else ''}", ran=True, lost=lost)


@dataclass(frozen=True)
class FinalRun:
    """A run that enters the comparison."""

    label: str
    recipe: Recipe
    study: str
    """The label of its study."""


def run_jobs(ready: deque[Callable[[], Jobs]], workers: Workers) -> None:
    """Do jobs, and those that they make ready, as many at a time as there are workers.

    Args:
        ready: The first jobs, in this order. What a job makes ready is done next.
        workers: Run the recipes.

    Raises:
        RunInterrupted: A signal stopped the sweep.
    """
    with ThreadPoolExecutor(workers.jobs) as pool:
        pending: set[Future[Jobs]] = set()
        while pending or (ready and not workers.stopped):
            while ready and len(pending) < workers.jobs and not workers.stopped:
                pending.add(pool.submit(ready.popleft()))
            done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)  # wakes up for signals
            for future in done:  # finish tuned studies before starting others
                ready.extendleft(reversed(future.result()))
    if workers.stopped:
        raise RunInterrupted("the sweep was stopped; run the same command to resume", workers.stopped)


def final_recipes(grid: Grid, study: Study, registry: Registry, overrides: Sequence[str] = ()) -> Mapping[int, Recipe]:
    """Return the final recipe of each seed, or none while the study is not tuned.

    Args:
        grid: The sweep.
        study: The study.
        registry: The installed components.
        overrides: The overrides that the grid was expanded with.

    Returns:
        Recipes by seed.

    Raises:
        InputError: The study's tuning cannot be read.
    """
    if grid.config.tune is None:
        return study.recipes
    record = read_tuning(grid, study)
    if record is None:
        return {}
    layers = (*study.layers, head_layer(record.get("head")), unflatten(record["settings"]))
    return {
        seed: make_recipe(grid.path, grid.config, registry, (*layers, {"run": {"seed": seed}}), overrides)
        for seed in study.recipes
    }


def read_tuning(grid: Grid, study: Study) -> Record | None:
    """Read the tuning record of a study.

    Args:
        grid: The sweep.
        study: The study.

    Returns:
        The record; None while the study is not tuned.

    Raises:
        InputError: The record cannot be read.
    """
    folder = grid.folder / "trials" / recipe_hash(study.any_recipe)
    return RunDirectory(folder).read_json(TUNING) if (folder / TUNING).is_file() else None


def _final_settings(record: Record) -> tuple[Any, Any]:
    """The settings that a tuning gives to the final runs."""
    return record["settings"], (record.get("head") or {}).get("learning_rate")


def _format_score(run: RunDirectory) -> str:
    summary = run.summary()
    if run.diverged:
        return "diverged"
    score = summary["selected"]["dev"][summary["selection_metric"]]
    return f"dev {summary['selection_metric']} {'undefined' if score is None else format(score, '.4g')}"


def find_run(recipe: Recipe) -> RunDirectory | None:
    """Find the run of a recipe in its folder: a finished one, else the latest, which can be resumed."""
    folders = sorted((file.parent for file in Path(recipe.run.output).glob("*/recipe.toml")), reverse=True)
    runs = [RunDirectory(folder) for folder in folders]
    return next((run for run in runs if run.finished), runs[0] if runs else None)


def write_marker(grid: Grid) -> None:
    """Write the description of the sweep to its folder, which makes readers of runs ignore its trials."""
    grid.folder.mkdir(parents=True, exist_ok=True)
    studies = [
        {"label": s.label, "values": dict(s.values), "method": s.any_recipe.method.name, "seeds": [*s.recipes]}
        for s in grid.studies
    ]
    refused = [vars(each) for each in grid.rejected]
    RunDirectory(grid.folder).write_json(MARKER, {"name": grid.config.name, "studies": studies, "refused": refused})


@contextmanager
def sweep_lock(grid: Grid) -> Iterator[None]:
    """Hold the lock of a sweep, so that no second process runs it.

    Raises:
        InputError: Another process holds it.
    """
    write_marker(grid)
    lock = FileLock(grid.folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise InputError(f"{grid.folder}: another process is running this sweep") from error
    try:
        yield
    finally:
        lock.release()


def format_duration(seconds: float) -> str:
    """Format a duration."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
