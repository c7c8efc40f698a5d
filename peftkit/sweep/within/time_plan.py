"""The design of a sweep within a time, and what it rests on: both are kept in the sweep's folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from peftkit.argument_names import format_argument
from peftkit.errors import InputError, RunError, RunInterrupted
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe
from peftkit.recipe.tables.train_config import BudgetConfig
from peftkit.run_directory import RunDirectory
from peftkit.sweep.grid import Grid, expand, recipe_hash
from peftkit.sweep.process_executor import Workers
from peftkit.sweep.scheduler import find_run, sweep_lock
from peftkit.sweep.tuning.head_tuning import find_heads
from peftkit.sweep.tuning.trial_design import FOLLOW_UPS, NUM_LEADERS
from peftkit.sweep.tuning.tuner import Tuner
from peftkit.sweep.tuning.tuning_stages import TuningTarget
from peftkit.sweep.within.choose_design import choose_design
from peftkit.sweep.within.duration_text import write_duration
from peftkit.sweep.within.expected_time import MIN_SHARE, RunTime, StudyTime, TimeDesign, Work, expected_seconds
from peftkit.sweep.within.run_times import PROBE_STEPS, Probe, RunKind, RunTimes

FILE = "within.json"
COMPARISON_SECONDS = 5.0
"""What the comparison at the end takes."""
AIM = 0.98
"""The share of the time that is planned for."""
EXAMPLE_SCORE = 0.7
"""The score whose interval is shown."""
SEED_DEVIATION = 0.01
"""What is expected of seeds before any run is seen, as in ``compare/statistics``."""
Say = Callable[[str], None]


def read_design(folder: Path) -> TimeDesign | None:
    """Read the design that a sweep was planned with; None if it has none.

    Args:
        folder: The sweep's folder.

    Raises:
        InputError: The file cannot be read.
    """
    if not (folder / FILE).is_file():
        return None
    design = RunDirectory(folder).read_json(FILE).get("design")
    return None if design is None else TimeDesign(**design)


def apply_design(
    grid: Grid, design: TimeDesign, registry: Registry, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> Grid:
    """Return the grid with the trials and the budgets of a design. It has all seeds: more may be run than planned.

    Args:
        grid: The sweep as its file has it.
        design: The design.
        registry: The installed components.
        overrides: The overrides that the grid was expanded with.
        only: The restrictions that the grid was expanded with.
    """
    config = grid.config
    tune = config.tune and config.tune.model_copy(update={"trials": design.trials})
    config = config.model_copy(update={"tune": tune, "budget_share": config.budget_share * design.budget_share})
    return expand(grid.path, config, registry, overrides, only)


def check_unplanned(folder: Path) -> None:
    """Check that a sweep, which is run without a time, was not planned within one.

    Args:
        folder: The sweep's folder.

    Raises:
        InputError: It was.
    """
    if (folder / FILE).is_file():
        within = write_duration(float(RunDirectory(folder).read_json(FILE)["within"]))
        raise InputError(
            f"{folder} was planned within a time, with its own budget; use {format_argument('within', within)}, "
            "or give the sweep another name"
        )


class TimePlan:
    """Plans a sweep within a time.

    Args:
        grid: The sweep as its file has it: what it gets at most.
        registry: The installed components.
        overrides: The overrides that the grid was expanded with.
        only: The restrictions that the grid was expanded with.
        within: The time in seconds, over all calls.
        started: When the user began to wait, on the clock of ``time.monotonic``; None for now.
        runs: Whether the sweep is run; otherwise it is only planned, which takes nothing of its time.

    Raises:
        InputError: The sweep has runs that were not planned within a time.
    """

    def __init__(
        self,
        grid: Grid,
        registry: Registry,
        overrides: Sequence[str] = (),
        only: Sequence[str] = (),
        *,
        within: float,
        started: float | None = None,
        runs: bool = True,
    ) -> None:
        self.grid, self.registry, self.overrides, self.only = grid, registry, overrides, only
        self.runs, self.within, self.started = runs, within, time.monotonic() if started is None else started
        self.tuner = Tuner(grid, registry, overrides) if grid.config.tune else None
        self.heads = {head.label: head for head in find_heads(grid, registry, overrides).values()}
        self.state: dict[str, Any] = {"spent": 0.0, "design": None, "probes": {}, "runs": {}, "decisions": []}
        if (grid.folder / FILE).is_file():
            self.state |= {k: v for k, v in RunDirectory(grid.folder).read_json(FILE).items() if k != "format"}
        elif any((grid.folder / "runs").glob("*/*/recipe.toml")):
            raise InputError(
                f"{grid.folder} has runs that were not planned within a time, and would be compared with those of "
                "another budget; give the sweep another name or output, or run it without a time"
            )
        self.spent_before = float(self.state["spent"])
        self._work: Work | None = None
        self.jobs = 1

    @property
    def seconds_left(self) -> float:
        """Seconds of the time that are left."""
        return self.within - self.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds that were waited for, in this call and in earlier ones."""
        return self.spent_before + (time.monotonic() - self.started if self.runs else 0.0)

    @property
    def design(self) -> TimeDesign | None:
        """What the sweep runs; None before that is decided."""
        return None if self.state["design"] is None else TimeDesign(**self.state["design"])

    def save(self) -> None:
        """Write the plan to the sweep's folder."""
        self.grid.folder.mkdir(parents=True, exist_ok=True)
        asked = {"trials": self.grid.config.tune and self.grid.config.tune.trials, "seeds": self._num_seeds}
        content = {**self.state, "within": self.within, "spent": self.elapsed, "jobs": self.jobs, "asked": asked}
        RunDirectory(self.grid.folder).write_json(FILE, content)

    def decide(self, design: TimeDesign, reason: str) -> None:
        """Record a design, and why it was chosen.

        Args:
            design: The design.
            reason: Why.
        """
        self.state["design"] = vars(design)
        self.state["decisions"].append({"after_seconds": round(self.elapsed, 1), **vars(design), "reason": reason})
        self.save()

    @property
    def _num_seeds(self) -> int:
        return max(len(study.recipes) for study in self.grid.studies)

    def measure(self, workers: Workers, say: Say) -> None:
        """Make a short run of each study and each new head, unless there is one.

        Args:
            workers: Run the recipes.
            say: Called with each result.

        Raises:
            RunError: All of them failed.
            RunInterrupted: A signal stopped the sweep.
        """
        self.jobs = workers.jobs
        workers.prepare()
        recipes = {study.label: study.any_recipe for study in self.grid.studies}
        recipes |= {label: head.recipe for label, head in self.heads.items()}
        probes = {label: self._probe_recipe(recipe) for label, recipe in recipes.items()}
        missing = {
            label: recipe
            for label, recipe in probes.items()
            if self.state["probes"].get(label, {}).get("recipe") != recipe_hash(recipe)
        }
        if not missing:
            return
        say(f"measuring how long runs take: {len(missing)} short runs")
        with sweep_lock(self.grid), workers.handle_signals(), ThreadPoolExecutor(workers.jobs) as pool:
            results = pool.map(lambda item: self._probe(workers, say, *item), missing.items())
            with suppress(RunInterrupted):
                self.state["probes"] |= {label: probe for label, probe in results if probe}
        self.save()
        if workers.stopped:
            raise RunInterrupted("the sweep was stopped; run the same command to resume", workers.stopped)
        if not self.state["probes"]:
            raise RunError(f"every short run failed; see the logs in {self.grid.folder / 'trials' / 'probes'}")

    def _probe_recipe(self, recipe: Recipe) -> Recipe:
        train = recipe.train.model_copy(update={"budget": BudgetConfig(steps=PROBE_STEPS)})
        track = recipe.track.model_copy(update={"to": ()})
        recipe = recipe.model_copy(update={"train": train, "track": track})
        output = str(self.grid.folder / "trials" / "probes" / recipe_hash(recipe))
        return recipe.model_copy(update={"run": recipe.run.model_copy(update={"output": output})})

    def _probe(self, workers: Workers, say: Say, label: str, recipe: Recipe) -> tuple[str, dict[str, Any] | None]:
        folder = Path(recipe.run.output)
        RunDirectory(folder).write_text("asked.toml", dump_recipe(recipe))
        outcome = workers.run(folder / "asked.toml", None, folder / "log.txt")
        run = find_run(recipe)
        if run is None or not run.finished:
            say(f"the short run of {label} failed: {outcome.last_lines[-1] if outcome.last_lines else ''}")
            return label, None
        probe = Probe.read(run, outcome.seconds, shares_inputs=workers.shares_inputs)
        say(f"{label}: {outcome.seconds:.1f} s with {PROBE_STEPS} steps")
        return label, {"recipe": recipe_hash(recipe), **vars(probe)}

    def probe(self, label: str) -> Probe | None:
        """Return what the short run of a study or head has shown; None if it failed."""
        stored = self.state["probes"].get(label)
        return stored and Probe(**{key: value for key, value in stored.items() if key != "recipe"})

    def work(self) -> Work:
        """Return what the sweep asks for, and how long its runs take with their whole budget, once that is measured."""
        if self._work is None:
            self._work = self._find_work()
        return self._work

    def _find_work(self) -> Work:
        tune, studies = self.grid.config.tune, {}
        transfers, least, loading = 0, [MIN_SHARE], dict[tuple[str, str], float]()
        for study in self.grid.studies:
            probe, final = self.probe(study.label), study.any_recipe
            trial, transfer, searches = final, final, False
            if self.tuner is not None:
                target = self.tuner.target_for(study)
                trial, transfer = self.tuner.recipe(target), self.tuner.recipe(target, stage="transfer")
                searches, transfers = bool(target.search), self.tuner.design(target).transfer
            if probe is None:
                continue
            studies[study.label] = StudyTime(
                probe.run_time(trial), probe.run_time(final), probe.run_time(transfer), searches=searches
            )
            least += [probe.least_share(recipe) for recipe in (trial, final)]
            key = final.model.name, final.task.name
            loading[key] = max(loading.get(key, 0.0), probe.loading_seconds)
        studies |= self._unknown(studies)
        return Work(
            studies,
            trials=tune.trials if tune else 0,
            further_trials=FOLLOW_UPS + NUM_LEADERS,
            transfers=transfers,
            seeds=self._num_seeds,
            heads=tuple(self._head_time(label, head) for label, head in self.heads.items()),
            other_seconds=COMPARISON_SECONDS + sum(loading.values()),
            least_share=min(1.0, max(least)),
        )

    def _unknown(self, known: Mapping[str, StudyTime]) -> dict[str, StudyTime]:
        """Studies whose short run failed are expected to take as long as the others, in case they do not."""
        first = next(iter(known.values()))

        def typical(times: Sequence[RunTime]) -> RunTime:
            return RunTime(mean(time.fixed for time in times), mean(time.full for time in times))

        typical_study = replace(
            first,
            trial=typical([each.trial for each in known.values()]),
            final=typical([each.final for each in known.values()]),
            transfer=typical([each.transfer for each in known.values()]),
        )
        return {study.label: typical_study for study in self.grid.studies if study.label not in known}

    def _head_time(self, label: str, head: TuningTarget) -> tuple[RunTime, int]:
        probe = self.probe(label)
        assert self.tuner is not None  # heads exist only in tuned sweeps  # noqa: S101
        return (RunTime(0.0) if probe is None else probe.run_time(self.tuner.recipe(head))), self.tuner.design(
            head
        ).total

    def interval(self, design: TimeDesign) -> str:
        """Say how wide the intervals of scores will be; empty if nothing is known of that.

        Args:
            design: The design.
        """
        recipe = self.grid.studies[0].any_recipe
        examples = [probe.test_examples for study in self.grid.studies if (probe := self.probe(study.label))]
        means = [m for m in recipe.metric if m.is_mean_of_examples and recipe.selection_metric.startswith(m.name)]
        if not means or not examples:
            return ""
        width = 1.96 * math.sqrt(SEED_DEVIATION**2 / design.seeds + EXAMPLE_SCORE * (1 - EXAMPLE_SCORE) / min(examples))
        return (
            f"a score of {EXAMPLE_SCORE:g} will have a 95 % interval of about ± {width:.2g}, with {min(examples):,} "
            f"test examples and {design.seeds} {'seed' if design.seeds == 1 else 'seeds'} if seeds vary by one point"
        )

    def choose(self, say: Say) -> TimeDesign:
        """Return the recorded design, or choose one.

        Args:
            say: Called with the design.

        Raises:
            InputError: The time is not enough.
        """
        if self.design is not None:
            left = f"{write_duration(self.seconds_left)} are left" if self.seconds_left > 0 else "the time is used up"
            say(f"as planned: {describe(self.design, self.work())}; of {write_duration(self.within)}, {left}")
            return self.design
        seconds = AIM * self.within - self.elapsed
        if seconds <= 0:
            raise InputError(
                f"{write_duration(self.within)} is not enough: to find out how long runs take took "
                f"{write_duration(self.elapsed)}; allow at least {write_duration(5 * self.elapsed)}"
            )
        design = choose_design(self.work(), seconds, self.jobs, spent=self.within - seconds)
        if self.runs:
            self.decide(design, "planned from one short run of each study")
        say(f"within {write_duration(self.within)}: {describe(design, self.work())}")
        if interval := self.interval(design):
            say(interval)
        return design

    def expected_seconds(self, design: TimeDesign) -> float:
        """Return how long a design takes from its beginning.

        Args:
            design: The design.
        """
        return expected_seconds(self.work(), design, self.jobs)

    def run_times(self, design: TimeDesign) -> RunTimes:
        """Return how long runs take with a design, and took so far.

        Args:
            design: The design.
        """
        predicted: dict[str, dict[RunKind, float]] = {
            label: {"trial": time.trial.at(design.budget_share), "final": time.final.at(design.budget_share)}
            for label, time in self.work().studies.items()
        }
        return RunTimes(predicted, self.state["runs"])


def describe(design: TimeDesign, work: Work) -> str:
    """Describe a design, with what the sweep asks for where that is more.

    Args:
        design: The design.
        work: What the sweep asks for.
    """

    def describe_number(number: int, asked: int) -> str:
        return f"{number}" if number == asked else f"{number} of {asked}"

    trials = (
        f"{describe_number(design.trials, work.trials)} trials (and {work.further_trials} follow-ups and repeats), "
        if design.trials
        else ""
    )
    budget = "the whole budget" if design.budget_share == 1 else f"{design.budget_share:g} of the budget"
    seeds = describe_number(design.seeds, work.seeds)
    return f"{trials}{seeds} seeds and {budget} for each of {len(work.studies)} studies"
