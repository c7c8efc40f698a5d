"""Sweeps within a time, with fake workers and a fake clock: a run takes as long as its method and its budget say."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from peftkit.errors import InputError, RunInterrupted
from peftkit.plugins import Registry
from peftkit.recipe import load_recipe
from peftkit.sweep.grid import Grid
from peftkit.sweep.process_executor import Outcome
from peftkit.sweep.within import time_plan
from peftkit.sweep.within.time_plan import FILE, TimePlan, check_unplanned, read_design
from peftkit.sweep.within.timed_sweep import TimedSweep
from tests.sweep.conftest import Planted

Make = Callable[..., Grid]
FIXED, PER_STEP = {"lora": 2.0, "full": 3.0}, {"lora": 0.1, "full": 0.2}
AXES = '[axes]\nmethod = ["lora", "full"]\nseed = [1, 2, 3, 4, 5]\n[set]\ntrain.budget.steps = 400\n'
EVERY = 'evaluate = { every = "100%", at_start = false }\n'
TUNED = AXES + EVERY + "[tune]\ntrials = 5\n"


class Clock:
    """A clock that only runs of the workers move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Timed(Planted):
    """Workers whose runs take time; ``factor`` is how much longer than the short runs let expect."""

    def __init__(self, registry: Registry, clock: Clock, factor: Callable[[], float] = lambda: 1.0) -> None:
        super().__init__(registry, jobs=1)
        self.clock, self.factor, self.shares_inputs = clock, factor, True

    def run(self, file: Path, resume: Path | None, log: Path) -> Outcome:
        if self.stopped:
            raise RunInterrupted("the sweep was stopped", self.stopped)
        recipe = load_recipe(file, self.registry)
        super().run(file, resume, log)
        steps, method = recipe.train.budget.steps or 0, recipe.method.name
        probes = "probes" in Path(recipe.run.output).parts
        factor = 1.0 if probes else self.factor()
        seconds = factor * (FIXED[method] + steps * PER_STEP[method])
        folder = max(Path(recipe.run.output).glob("*/summary.json")).parent
        summary = json.loads((folder / "summary.json").read_text())
        summary |= {"steps": steps, "samples": 8 * steps, "epoch": steps / 100, "wall_seconds_before_run": 0.0}
        summary |= {"tokens": {"input": steps, "target": steps}, "rows_evaluated": {"selected": {"test": 250}}}
        summary["cost"] = {"gmacs": 10.0, "train_seconds": factor * steps * PER_STEP[method]}
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "evaluations.jsonl").write_text(json.dumps({"format": 3, "evaluation_seconds": 0.5}) + "\n")
        self.clock.now += seconds
        return Outcome(0, seconds, ())

    def prepare(self) -> None:
        self.clock.now += 1

    @property
    def finals(self) -> list[tuple[str, int]]:
        """Method and seed of each final run, in the order in which they were started."""
        return [(r.method.name, r.run.seed) for r in self.started if "runs" in Path(r.run.output).parts[-2:]]

    def trials(self, method: str) -> int:
        trials = [r for r in self.started if "trials" in Path(r.run.output).parts and r.method.name == method]
        return sum("probes" not in Path(r.run.output).parts for r in trials)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time_plan, "time", clock)
    return clock


def sweep_within(grid: Grid, registry: Registry, workers: Timed, within: float) -> tuple[TimedSweep, list[str]]:
    messages: list[str] = []
    plan = TimePlan(grid, registry, within=within)
    plan.measure(workers, messages.append)  # type: ignore[arg-type]
    sweep = TimedSweep(plan, workers, messages.append)  # type: ignore[arg-type]
    assert sweep.run() == []
    return sweep, messages


WHOLE = 2 * 5 + 14 * (42 + 83)
"""Seconds of the whole sweep: short runs, trials and final runs of both methods."""


def test_all_methods_get_the_same_trials_seeds_and_budget(grid: Make, registry: Registry, clock: Clock) -> None:
    workers, start = Timed(registry, clock), clock.now
    sweep, messages = sweep_within(grid(TUNED), registry, workers, 600)
    assert 0.9 * 600 <= clock.now - start <= 1.1 * 600
    design = read_design(sweep.grid.folder)
    assert design is not None
    assert design == sweep.current
    assert 0.1 < design.budget_share < 0.6
    assert workers.trials("lora") == workers.trials("full") == design.trials + 4
    seeds = range(1, design.seeds + 1)
    assert workers.finals == [(method, seed) for seed in seeds for method in ("lora", "full")], "seed by seed"
    budgets = {r.train.budget.steps for r in workers.started if "probes" not in Path(r.run.output).parts}
    assert budgets == {round(400 * design.budget_share)}
    assert sweep.progress.done == sweep.progress.total
    assert any(text.startswith("within 10min: ") and "0.7 will have a 95 % interval" not in text for text in messages)
    assert any("with 250 test examples" in text for text in messages)


def test_enough_time_gives_all_that_the_file_asks_for(grid: Make, registry: Registry, clock: Clock) -> None:
    workers, start = Timed(registry, clock), clock.now
    sweep, _ = sweep_within(grid(TUNED), registry, workers, 4000)
    assert (sweep.current.trials, sweep.current.seeds, sweep.current.budget_share) == (5, 5, 1.0)
    assert clock.now - start == pytest.approx(WHOLE, rel=0.02)


def test_a_sweep_without_tuning_chooses_seeds_and_budget(grid: Make, registry: Registry, clock: Clock) -> None:
    workers, start = Timed(registry, clock), clock.now
    sweep, _ = sweep_within(grid(AXES + EVERY), registry, workers, 300)
    assert 270 <= clock.now - start <= 330
    assert len(workers.finals) == 2 * sweep.current.seeds


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_it_adapts_to_what_runs_take(grid: Make, registry: Registry, clock: Clock, factor: float) -> None:
    """Runs that take longer cost seeds, and then trials; with shorter ones, more seeds are run."""
    workers, start = Timed(registry, clock, lambda: factor), clock.now
    sweep, messages = sweep_within(grid(TUNED), registry, workers, 600)
    assert clock.now - start <= 1.1 * 600
    assert clock.now - start >= 0.9 * 600 or sweep.current.seeds == 5
    first, *later = json.loads((sweep.grid.folder / FILE).read_text())["decisions"]
    assert later
    assert (later[-1]["seeds"] > first["seeds"]) == (factor < 1)
    assert all(each["budget_share"] == first["budget_share"] for each in later)
    assert workers.trials("lora") >= sweep.current.trials + 4
    assert sorted(workers.finals) == sorted((m, s) for m in FIXED for s in range(1, sweep.current.seeds + 1))
    assert any("than planned" in text for text in messages)


def test_fewer_trials_are_fewer_for_all_methods(grid: Make, registry: Registry, clock: Clock) -> None:
    """Settings that a method has tried before are those of the smaller design too, so they are not run again."""
    workers = Timed(registry, clock)
    plan = TimePlan(grid(TUNED), registry, within=900)
    plan.measure(workers, lambda text: None)  # type: ignore[arg-type]
    plan.decide(time_plan.TimeDesign(5, 2, 0.5), "as a test wants it")
    sweep = TimedSweep(plan, workers, lambda text: None)  # type: ignore[arg-type]
    workers.factor = lambda: 1.5
    sweep.run()
    assert sweep.current.trials == 3
    for study in sweep.grid.studies:
        folder = sweep.tuner.folder(sweep.tuner.target_for(study))  # type: ignore[union-attr]
        record = json.loads((folder / "tuning.json").read_text())
        assert record["design"]["trials"] == 3
        assert record["trials"] == len(record["tried"]) == 7
    assert workers.trials("lora") <= 9
    assert workers.trials("full") == 7
    assert sweep.progress.done == sweep.progress.total


def test_an_interrupted_sweep_continues_with_the_time_left(grid: Make, registry: Registry, clock: Clock) -> None:
    workers, start = Timed(registry, clock), clock.now
    plan = TimePlan(grid(TUNED), registry, within=600)
    plan.measure(workers, lambda text: None)  # type: ignore[arg-type]
    sweep = TimedSweep(plan, workers, lambda text: None)  # type: ignore[arg-type]

    def stop() -> float:
        if len(workers.started) == 8:
            workers.stopped = 2
        return 1.0

    workers.factor = stop
    with pytest.raises(RunInterrupted):
        sweep.run()
    spent = clock.now - start
    clock.now += 5000  # the time between does not count
    again, restarted = Timed(registry, clock), clock.now
    resumed, messages = sweep_within(grid(TUNED), registry, again, 600)
    assert 0.9 * 600 <= spent + clock.now - restarted <= 1.1 * 600
    assert resumed.current.budget_share == sweep.current.budget_share
    assert any(text.startswith("as planned: ") and "are left" in text for text in messages)
    started = len(workers.started) + len(again.started)
    assert started - 2 == resumed.progress.total, "no run is made twice"
    finished = Timed(registry, clock)
    sweep_within(grid(TUNED), registry, finished, 600)
    assert finished.started == []


def test_a_sweep_is_either_planned_or_not(grid: Make, registry: Registry, clock: Clock, tmp_path: Path) -> None:
    workers = Timed(registry, clock)
    sweep_within(grid(AXES + EVERY), registry, workers, 300)
    with pytest.raises(InputError, match=r'was planned within a time, .* use within="5min"'):
        check_unplanned(tmp_path / "s")
    (tmp_path / "s" / FILE).unlink()
    check_unplanned(tmp_path / "s")
    with pytest.raises(InputError, match="has runs that were not planned within a time"):
        TimePlan(grid(AXES), registry, within=300)


def test_a_plan_takes_nothing_of_the_time(grid: Make, registry: Registry, clock: Clock) -> None:
    plan = TimePlan(grid(TUNED), registry, within=600, runs=False)
    plan.measure(Timed(registry, clock), lambda text: None)  # type: ignore[arg-type]
    design = plan.choose(lambda text: None)
    assert plan.expected_seconds(design) == pytest.approx(0.98 * 600, rel=0.02)
    assert read_design(plan.grid.folder) is None
    assert json.loads((plan.grid.folder / FILE).read_text())["spent"] == 0
    workers = Timed(registry, clock)
    sweep, _ = sweep_within(grid(TUNED), registry, workers, 600)
    assert len(workers.started) == sweep.progress.total, "the short runs are not repeated"


def test_runs_that_vary_end_in_time(grid: Make, registry: Registry, clock: Clock) -> None:
    generator = random.Random(1)
    workers, start = Timed(registry, clock, lambda: generator.uniform(0.7, 1.3)), clock.now
    sweep_within(grid(TUNED), registry, workers, 900)
    assert 0.9 * 900 <= clock.now - start <= 1.1 * 900
