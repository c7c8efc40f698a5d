"""How far a run is, when it evaluates, and the learning rate in between."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.recipe.tables import BudgetTable
from peftkit.runner.budget import Marks, Used, planned_steps, progress, schedule
from tests.runner.conftest import Make


@pytest.mark.parametrize(
    ("limits", "share"),
    [
        ({"steps": 20}, 0.5),
        ({"samples": 100}, 0.8),
        ({"tokens": 400}, 0.75),
        ({"epochs": 4.0}, 0.625),
        ({"seconds": 5.0}, 0.4),
        ({"gmacs": 8.0}, 0.25),
        ({"steps": 20, "seconds": 2.0}, 1.0),
    ],
)
def test_the_nearest_limit_counts(limits: dict[str, float], share: float) -> None:
    used = Used(
        step=10, samples=80, input_tokens=200, target_tokens=100, seconds=2.0, macs=2_000_000_000, steps_per_epoch=4
    )
    assert progress(BudgetTable(**limits), used) == pytest.approx(share)  # type: ignore[arg-type]


def test_planned_steps_are_the_fewest_that_a_limit_allows() -> None:
    budget = BudgetTable(steps=50, samples=100, epochs=3)
    assert planned_steps(budget, effective_batch=8, steps_per_epoch=10) == 13
    assert planned_steps(BudgetTable(seconds=3.0), effective_batch=8, steps_per_epoch=10) is None
    assert planned_steps(BudgetTable(epochs=1.1), effective_batch=8, steps_per_epoch=50) == 55


@given(st.integers(1, 200), st.integers(1, 100), st.integers(1, 40))
def test_marks_in_steps_fall_where_they_should(steps: int, every: int, per_epoch: int) -> None:
    marks = Marks(f"{every} steps", BudgetTable(steps=steps))
    due = [s for s in range(1, steps + 1) if marks.due(Used(step=s, steps_per_epoch=per_epoch))]
    assert due == list(range(every, steps + 1, every))


@given(st.integers(1, 300), st.integers(1, 100))
def test_marks_in_shares_come_once_each(steps: int, percent: int) -> None:
    marks = Marks(f"{percent}%", BudgetTable(steps=steps))
    due = [s for s in range(1, steps + 1) if marks.due(Used(step=s))]
    assert len(due) == min(steps, 100 // percent) or len(due) <= 100 // percent
    assert len(due) >= 1
    if 100 % percent == 0:
        assert due[-1] == steps


@given(st.integers(2, 40))
def test_marks_on_a_logarithmic_scale_begin_at_a_thousandth_and_end_with_the_budget(number: int) -> None:
    marks, steps = Marks(f"{number} log", BudgetTable(steps=100_000)), 100_000
    points = [round(steps * 0.001 ** (1 - i / (number - 1))) for i in range(number)]
    tried = sorted({1, *(p + d for p in points for d in (-2, 2)), steps})
    due = [s for s in tried if s <= steps and marks.due(Used(step=s))]
    assert len(due) == number
    assert all(abs(mark - point) <= 2 for mark, point in zip(due, points, strict=True))


def test_marks_in_epochs() -> None:
    marks = Marks("0.5 epochs", BudgetTable(epochs=2))
    assert [s for s in range(1, 21) if marks.due(Used(step=s, steps_per_epoch=10))] == [5, 10, 15, 20]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"])
def test_schedules_rise_over_the_warm_up_and_then_never_above_one(make: Make, name: str) -> None:
    factor = schedule(make("decoder", f"train.schedule={name}", "train.warmup_ratio=0.25"))
    assert factor(0.125) == pytest.approx(0.5)
    assert factor(0.25) == pytest.approx(1.0, rel=1e-3)
    after = [factor(0.25 + 0.75 * i / 20) for i in range(21)]
    assert all(0 <= f <= 1 + 1e-9 and math.isfinite(f) for f in after)
    assert name == "constant" or after[10] < 0.95


def test_a_linear_schedule_falls_with_the_share_of_the_budget(make: Make) -> None:
    factor = schedule(make("decoder", "train.schedule=linear"))
    assert [factor(s) for s in (0.0, 0.25, 1.0, 1.5)] == pytest.approx([1.0, 0.75, 0.0, 0.0])
