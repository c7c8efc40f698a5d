from __future__ import annotations

import math

import pytest

from peftkit.train.schedule import make_schedule
from tests.tiny_runs import Make


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"])
def test_schedules_rise_during_warm_up_and_never_exceed_one(make: Make, name: str) -> None:
    factor = make_schedule(make("decoder", f"train.schedule={name}", "train.warmup_ratio=0.25"))
    assert factor(0.125) == pytest.approx(0.5)
    assert factor(0.25) == pytest.approx(1.0, rel=1e-3)
    after = [factor(0.25 + 0.75 * i / 20) for i in range(21)]
    assert all(0 <= f <= 1 + 1e-9 and math.isfinite(f) for f in after)
    assert name == "constant" or after[10] < 0.95


def test_a_linear_schedule_decays_with_the_used_budget(make: Make) -> None:
    factor = make_schedule(make("decoder", "train.schedule=linear"))
    assert [factor(s) for s in (0.0, 0.25, 1.0, 1.5)] == pytest.approx([1.0, 0.75, 0.0, 0.0])
