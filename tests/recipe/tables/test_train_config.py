from __future__ import annotations

from peftkit.recipe.tables.train_config import BudgetConfig


def test_a_share_of_a_budget_has_whole_steps_and_readable_numbers() -> None:
    budget = BudgetConfig(steps=100, samples=7, gmacs=100.0, epochs=1.0, wall_seconds=60.0)
    assert budget.scaled(0.333) == BudgetConfig(steps=33, samples=2, gmacs=33.3, epochs=0.333, wall_seconds=19.98)
    assert budget.scaled(1e-9) == BudgetConfig(steps=1, samples=1, gmacs=1e-6, epochs=1e-6, wall_seconds=1e-6)
    assert BudgetConfig(tokens=1000).scaled(1 / 3) == BudgetConfig(tokens=333)
