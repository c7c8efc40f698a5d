"""Budgets of what a user waits for: the clock, its share of the budget, and runs that end by it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import RunError
from peftkit.plugins import Registry
from peftkit.recipe.tables.train_config import BudgetConfig
from peftkit.run_directory import RunDirectory
from peftkit.train import wall_clock
from peftkit.train.budget import Progress, budget_used
from peftkit.train.run import run
from peftkit.train.wall_clock import WallClock, process_start
from tests.tiny_runs import Make


class Ticking:
    """A clock that advances by some seconds whenever it is read."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 100.0, tick

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Ticking]:
    def replace_clock(tick: float) -> Ticking:
        clock = Ticking(tick)
        monkeypatch.setattr(wall_clock, "time", clock)
        return clock

    return replace_clock


@pytest.mark.parametrize(
    ("waited", "before", "reserved", "share"),
    [(10, 10, 0, 0.0), (55, 10, 0, 0.5), (50, 10, 10, 0.5), (90, 10, 10, 1.0), (10, 10, 95, 1.0), (95, 0, 0, 0.95)],
)
def test_the_share_is_of_the_time_between_the_start_and_the_end(
    waited: float, before: float, reserved: float, share: float
) -> None:
    progress = Progress(wall_seconds=waited, wall_seconds_before=before, wall_seconds_reserved=reserved)
    assert budget_used(BudgetConfig(wall_seconds=100), progress) == pytest.approx(share)
    assert budget_used(BudgetConfig(wall_seconds=100, steps=1), Progress(step=1)) == 1


def test_the_end_is_expected_to_take_as_long_as_the_slowest_so_far(ticking: Callable[[float], Ticking]) -> None:
    ticking(1.0)
    clock = WallClock()
    assert clock.reserve([("dev", 100)]) == 0
    assert not clock.knows_evaluation
    clock.add_evaluation("dev", 10, 1.0)
    assert clock.knows_evaluation
    assert clock.reserve([("dev", 100), ("test", 50)]) == 10
    clock.add_evaluation("dev", 50, 2.0)  # more rows say more
    clock.add_evaluation("dev", 50, 3.0)
    clock.add_evaluation("dev", 10, 9.0)
    assert clock.reserve([("dev", 100)]) == 6
    for _ in range(2):
        with clock.time_saving("checkpoint"):
            pass
    with clock.time_step():
        pass
    assert clock.reserve([("dev", 100)]) == 6 + 1 + 1


def test_time_in_earlier_processes_counts_and_time_between_does_not(ticking: Callable[[float], Ticking]) -> None:
    clock = ticking(0.0)
    first = WallClock(clock.now - 5)  # the process began before
    clock.now += 20
    state = first.state_dict()
    clock.now += 1000
    second = WallClock(clock.now - 3)
    second.load_state_dict(state)
    assert second.seconds == 25 + 3


def test_the_clock_starts_with_the_process() -> None:
    function = "from peftkit.train.wall_clock import process_start as start"
    code = f"import time; time.sleep(0.3); {function}; print(time.monotonic() - start())"
    before = time.monotonic()
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0.3 <= float(output) <= time.monotonic() - before + 0.02
    assert process_start() < time.monotonic()


def run_within(make: Make, registry: Registry, seconds: float, *overrides: str, started: float | None = None) -> Path:
    path = run(make("decoder", f"train.budget={{wall_seconds={seconds}}}", *overrides), registry, started=started)
    assert path is not None
    return path


@pytest.mark.parametrize("at_start", [True, False])
def test_a_run_ends_with_its_evaluation_within_the_time(
    make: Make, registry: Registry, ticking: Callable[[float], Ticking], at_start: bool
) -> None:
    """Without an evaluation at the start, a few rows of each split show how long one takes."""
    ticking(0.25)
    every, start = "evaluate.every=50%", f"evaluate.at_start={str(at_start).lower()}"
    path = run_within(make, registry, 60.0, every, start, "train.budget.steps=100000", "train.schedule=linear")
    summary, rows = RunDirectory(path).summary(), RunDirectory(path).evaluations()
    assert summary["steps"] == rows[-1]["step"] > 2
    assert rows[0]["step"] == 0 if at_start else rows[0]["step"] > 0
    assert len(rows) == 2 + at_start
    assert 0 < summary["wall_seconds_before_training"] < summary["cost"]["wall_seconds"] <= summary["wall_seconds"]
    assert 45 <= summary["wall_seconds"] <= 62
    waits = [row["cost"]["wall_seconds"] for row in rows]
    assert waits == sorted(waits)
    assert summary["stopped_early"] is None


@pytest.mark.parametrize(("seconds", "waited"), [(50.0, 60.0), (3.0, 0.0)])
def test_a_time_that_leaves_no_step_is_an_error(
    make: Make, registry: Registry, ticking: Callable[[float], Ticking], seconds: float, waited: float, tmp_path: Path
) -> None:
    clock = ticking(0.5)
    text = (
        r"train.budget.wall_seconds = .* leaves no time for training: the start of the run took .* set it to well above"
    )
    with pytest.raises(RunError, match=text):
        run_within(make, registry, seconds, started=clock.now - waited)
    [folder] = (tmp_path / "runs").iterdir()
    assert RunDirectory(folder).summary()["status"] == "failed"
    assert not RunDirectory(folder).finished


def test_other_runs_record_what_was_waited_for_too(make: Make, registry: Registry) -> None:
    began = time.monotonic()
    path = run(make("decoder", "train.budget.steps=2"), registry, started=began - 7)
    assert path is not None
    summary: dict[str, Any] = RunDirectory(path).summary()
    assert 7 <= summary["wall_seconds_before_run"] <= summary["wall_seconds_before_training"]
    assert summary["wall_seconds_before_training"] <= summary["cost"]["wall_seconds"] <= summary["wall_seconds"]
    assert summary["wall_seconds"] <= 7 + time.monotonic() - began
