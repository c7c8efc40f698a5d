"""Run a sweep within a time: it learns how long runs take, and adapts seeds and trials, equally for all methods."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from threading import RLock

from peftkit.errors import RunInterrupted
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.sweep.grid import Study
from peftkit.sweep.process_executor import Workers
from peftkit.sweep.scheduler import Failure, FinalRun, Jobs, Sweep, find_run, run_jobs, sweep_lock
from peftkit.sweep.tuning.tuner import Record, Tuner
from peftkit.sweep.tuning.tuning_stages import TuningTarget
from peftkit.sweep.within.choose_design import MIN_SEEDS, adapt_design
from peftkit.sweep.within.duration_text import write_duration
from peftkit.sweep.within.expected_time import Work, expected_seconds
from peftkit.sweep.within.run_times import RunKind
from peftkit.sweep.within.time_plan import Say, TimePlan, apply_design, describe


class _FewerTrialsError(Exception):
    """The number of trials has changed while a study was being tuned."""


class TimedSweep(Sweep):
    """A sweep with a plan. All studies are tuned first; then each seed is run with all of them.

    Args:
        plan: The plan.
        workers: Run the recipes.
        say: Called with what happens.
    """

    def __init__(self, plan: TimePlan, workers: Workers, say: Say) -> None:
        self.plan, self.say = plan, say
        plan.jobs = workers.jobs
        self.current = plan.choose(say)
        self.asked = plan.work()
        grid = apply_design(plan.grid, self.current, plan.registry, plan.overrides, plan.only)
        super().__init__(grid, plan.registry, workers, say, plan.overrides)
        self.times = plan.run_times(self.current)
        self._kinds: dict[str, tuple[str, RunKind]] = {}
        self._finals: dict[str, list[FinalRun]] = {}
        """The final runs of each study that is tuned, by the order of their seeds."""
        self._heads_of: dict[str, Record | None] = {}
        self._waiting = {study.label for study in grid.studies}
        """Studies whose tuning has not started; as long as there are some, the number of trials can change."""
        self._outdated: list[Study] = []
        """Studies that were tuned with another number of trials than the present one."""
        self._rounds: set[int] = set()
        """The seeds, by their order, that some study has run: all others run them too."""
        self._trials_done: dict[str, int] = {}
        self._finals_done: dict[str, int] = {}
        self._design_lock = RLock()
        self._count_runs()

    def run(self) -> list[Failure]:
        """Run what the design has and is not finished, and return the failures.

        Raises:
            InputError: Another process is running this sweep, or the time that is left is not enough to finish it.
            RunInterrupted: A signal stopped the sweep; the same command resumes it with the time that is left.
        """
        with sweep_lock(self.grid), self.workers.handle_signals():
            try:
                ready: deque[Callable[[], Jobs]] = deque(
                    partial(self._head_job, head) for head in self._distinct_heads()
                )
                ready.extend(
                    partial(self._study_job, study) for study in self.grid.studies if study.label not in self.heads
                )
                run_jobs(ready, self.workers)
                self._rounds |= {
                    number
                    for finals in self._finals.values()
                    for number, final in enumerate(finals)
                    if find_run(final.recipe)
                }
                run_jobs(deque(self._final_jobs(self.asked.seeds)), self.workers)
            finally:
                self.plan.save()
        self.say(f"took {write_duration(self.plan.elapsed)} of {write_duration(self.plan.within)}")
        return self.progress.failures

    @property
    def _least_seeds(self) -> int:
        return min(MIN_SEEDS, self.asked.seeds)

    def _study_job(self, study: Study, head: Record | None = None) -> Jobs:
        with self._design_lock:
            self._waiting.discard(study.label)
            tuner = self.tuner
            self._trials_done[study.label], self._heads_of[study.label] = 0, head
        with suppress(RunInterrupted):
            finals: list[FinalRun] | None = None
            with suppress(_FewerTrialsError):
                finals = self._tune_and_list_finals(study, head)
            with self._design_lock:
                if finals is None or tuner is not self.tuner:
                    self._outdated.append(study)
                else:
                    self._finals[study.label] = finals
                return self._next_jobs()
        return []

    def _next_jobs(self) -> Jobs:
        """What is ready after the tuning of a study."""
        again, self._outdated = self._outdated, []
        self._waiting |= {study.label for study in again}
        self.progress.add_reused(-sum(self._trials_done[study.label] for study in again))  # counted again
        if self._waiting:
            return [partial(self._study_job, study, self._heads_of[study.label]) for study in again]
        # The number of trials can no longer change, so finals can start while the last studies are tuned.
        return self._final_jobs(self._least_seeds)

    def _final_jobs(self, seeds: int) -> Jobs:
        """Final runs that have not been started: each seed of all studies, before the next seed."""
        with self._design_lock:
            return [
                partial(self._round_job, number, finals[number])
                for number in range(seeds)
                for finals in self._finals.values()
                if number < len(finals) and finals[number].recipe.run.output not in self._kinds
            ]

    def _round_job(self, number: int, final: FinalRun) -> Jobs:
        """Run a final run, if there is time for its seed, or if another study has it already."""
        with self._design_lock:
            if final.recipe.run.output in self._kinds:
                return []
            if number not in self._rounds and number >= self._least_seeds:
                self._adapt()
                if number >= self.current.seeds:
                    return []
            self._rounds.add(number)
            self._kinds[final.recipe.run.output] = final.study, "final"
        jobs = self._final_job(final)
        with self._design_lock:
            self._finals_done[final.study] = self._finals_done.get(final.study, 0) + 1
        return jobs

    def _run_trial(self, target: TuningTarget, label: str, recipe: Recipe) -> RunDirectory | None:
        with self._design_lock:
            if target.trials != self.current.trials and target.label in self.asked.studies:
                raise _FewerTrialsError
            self._kinds[recipe.run.output] = target.label, "trial"
        run = super()._run_trial(target, label, recipe)
        with self._design_lock:
            self._trials_done[target.label] = self._trials_done.get(target.label, 0) + 1
            if self._waiting and target.label in self.asked.studies:
                self._adapt()
        return run

    def _add_time(self, recipe: Recipe, run: RunDirectory, seconds: float) -> None:
        label, kind = self._kinds[recipe.run.output]
        loading = run.summary().get("wall_seconds_before_run", 0.0) if self.workers.shares_inputs else 0.0
        with self._design_lock:
            self.times.add(label, kind, max(0.0, seconds - loading))
            self.plan.save()

    def _adapt(self) -> None:
        """Choose the design anew, from how long runs have taken so far."""
        design = adapt_design(
            self.work_left(),
            self.current,
            self.plan.seconds_left,
            self.workers.jobs,
            total=self.plan.within,
            tuning=0 < len(self._waiting) <= len(self.grid.studies) / 2,  # a few runs say little of all
        )
        design = replace(design, seeds=max(design.seeds, *(number + 1 for number in self._rounds), 1))
        if design == self.current:
            return
        fewer_trials = design.trials < self.current.trials
        longer = self.plan.seconds_left - expected_seconds(self.work_left(), self.current, self.workers.jobs) < 0
        reason = f"runs take {'longer' if longer else 'less long'} than planned"
        self.current = design
        self.plan.decide(design, reason)
        self.say(f"{reason}: {describe(design, self.asked)}")
        if fewer_trials:
            self.grid = apply_design(self.plan.grid, design, self.registry, self.overrides, self.plan.only)
            self.tuner = Tuner(self.grid, self.registry, self.overrides)
            self._outdated += [study for study in self.grid.studies if self._finals.pop(study.label, None) is not None]
        self._count_runs()

    def work_left(self) -> Work:
        """Return what the sweep asks for, with what is done, and how long runs have taken."""
        return replace(
            self.asked,
            studies=self.times.study_times({label: time.searches for label, time in self.asked.studies.items()}),
            heads=(),
            other_seconds=0.0,
            trials_done=self._trials_done,
            finals_done=self._finals_done,
        )

    def _count_runs(self) -> None:
        """Set the number of runs that the progress counts to."""
        heads = sum(number for _, number in self.asked.heads)
        trials = 0
        if self.tuner is not None:
            trials = sum(self.tuner.design(self.tuner.target_for(study)).total for study in self.grid.studies)
        finals = sum(min(self.current.seeds, len(study.recipes)) for study in self.grid.studies)
        self.progress.total = heads + trials + finals
