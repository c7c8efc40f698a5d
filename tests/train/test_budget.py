"""Used budget, planned steps and intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.recipe.tables.train_config import BudgetConfig
from peftkit.train.budget import IntervalTrigger, Progress, budget_used, planned_steps


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
def test_budget_used_follows_the_closest_limit(limits: dict[str, float], share: float) -> None:
    used = Progress(
        step=10, samples=80, input_tokens=200, target_tokens=100, seconds=2.0, macs=2_000_000_000, steps_per_epoch=4
    )
    assert budget_used(BudgetConfig(**limits), used) == pytest.approx(share)  # type: ignore[arg-type]


def test_planned_steps_follow_the_closest_limit() -> None:
    budget = BudgetConfig(steps=50, samples=100, epochs=3)
    assert planned_steps(budget, effective_batch=8, steps_per_epoch=10) == 13
    assert planned_steps(BudgetConfig(seconds=3.0), effective_batch=8, steps_per_epoch=10) is None
    assert planned_steps(BudgetConfig(epochs=1.1), effective_batch=8, steps_per_epoch=50) == 55


@given(st.integers(1, 200), st.integers(1, 100), st.integers(1, 40))
def test_an_interval_in_steps_is_due_regularly(steps: int, every: int, per_epoch: int) -> None:
    marks = IntervalTrigger(f"{every} steps", BudgetConfig(steps=steps))
    due = [s for s in range(1, steps + 1) if marks.due(Progress(step=s, steps_per_epoch=per_epoch))]
    assert due == list(range(every, steps + 1, every))


@given(st.integers(1, 300), st.integers(1, 100))
def test_an_interval_in_percent_is_due_once_each(steps: int, percent: int) -> None:
    marks = IntervalTrigger(f"{percent}%", BudgetConfig(steps=steps))
    due = [s for s in range(1, steps + 1) if marks.due(Progress(step=s))]
    assert len(due) == min(steps, 100 // percent) or len(due) <= 100 // percent
    assert len(due) >= 1
    if 100 % percent == 0:
        assert due[-1] == steps


@given(st.integers(2, 40))
def test_a_logarithmic_interval_starts_at_a_thousandth_and_ends_with_the_budget(number: int) -> None:
    marks, steps = IntervalTrigger(f"{number} log", BudgetConfig(steps=100_000)), 100_000
    points = [round(steps * 0.001 ** (1 - i / (number - 1))) for i in range(number)]
    tried = sorted({1, *(p + d for p in points for d in (-2, 2)), steps})
    due = [s for s in tried if s <= steps and marks.due(Progress(step=s))]
    assert len(due) == number
    assert all(abs(mark - point) <= 2 for mark, point in zip(due, points, strict=True))


def test_an_interval_in_epochs_is_due_regularly() -> None:
    marks = IntervalTrigger("0.5 epochs", BudgetConfig(epochs=2))
    assert [s for s in range(1, 21) if marks.due(Progress(step=s, steps_per_epoch=10))] == [5, 10, 15, 20]
