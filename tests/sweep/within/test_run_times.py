"""How long runs take, from one short run and from the runs so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftkit.plugins import Registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.sweep.within.expected_time import RunTime
from peftkit.sweep.within.run_times import Probe, RunTimes
from tests.sweep.conftest import BASE

PROGRESS = {"steps": 16, "samples": 128, "tokens": 1000, "epochs": 0.16, "seconds": 8.0, "gmacs": 32.0, "joules": 0.0}
PROBE = Probe(20.0, 5.0, 8.0, 3.0, 2, PROGRESS, 250)
"""16 steps of half a second, 2 evaluations of 3 s, and 6 s for everything else."""


@pytest.fixture
def recipe(tmp_path: Path, registry: Registry) -> Any:
    (tmp_path / "base.toml").write_text(BASE.replace("steps = 4", ""))

    def make_recipe(budget: str, every: str = "100%", at_start: str = "false") -> Recipe:
        options = (f"train.budget={budget}", f'evaluate.every="{every}"', f"evaluate.at_start={at_start}")
        return load_recipe(tmp_path / "base.toml", registry, options)

    return make_recipe


@pytest.mark.parametrize(
    ("budget", "every", "at_start", "time"),
    [
        ("{steps=1600}", "100%", "false", RunTime(6 + 3, 800)),
        ("{epochs=1}", "25%", "true", RunTime(6 + 5 * 3, 50)),
        ("{gmacs=64, steps=10000}", "33.4%", "false", RunTime(6 + 3 * 3, 16)),
        ("{samples=1280}", "20 log", "false", RunTime(6 + 20 * 3, 80)),
        ("{steps=1600}", "100 steps", "false", RunTime(6 + 3, 800 + 16 * 3)),
        ("{epochs=1}", "0.5 epochs", "false", RunTime(6 + 3, 50 + 2 * 3)),
        ("{wall_seconds=60}", "100%", "false", RunTime(0, 60)),
        ("{wall_seconds=60, steps=32}", "100%", "false", RunTime(9, 16)),
    ],
)
def test_a_short_run_shows_how_long_a_whole_one_takes(
    recipe: Any, budget: str, every: str, at_start: str, time: RunTime
) -> None:
    run_time = PROBE.run_time(recipe(budget, every, at_start))
    assert (run_time.fixed, run_time.full) == pytest.approx((time.fixed, time.full))


@pytest.mark.parametrize(
    ("budget", "share"), [("{steps=100}", 0.2), ("{epochs=2}", 0.1), ("{wall_seconds=100}", (9 + 10) / 100)]
)
def test_a_run_has_at_least_twenty_steps(recipe: Any, budget: str, share: float) -> None:
    assert PROBE.least_share(recipe(budget)) == pytest.approx(share)


def test_what_runs_took_corrects_what_was_expected() -> None:
    times = RunTimes({"a": {"trial": 10.0, "final": 20.0}, "b": {"trial": 30.0, "final": 40.0}})
    assert times.expected("a", "final") == 20
    times.add("a", "trial", 12.0)
    assert times.expected("a", "trial") == 12
    assert times.expected("b", "final") == pytest.approx(48), "others are expected to take longer too"
    times.add("a", "trial", 15.0)
    assert times.expected("a", "trial") == pytest.approx((13.5 + 12 + 15) / 3)
    times.add("head of a model", "trial", 100.0)  # nothing is expected of heads
    assert times.expected("b", "trial") == pytest.approx(30 * 1.35)
