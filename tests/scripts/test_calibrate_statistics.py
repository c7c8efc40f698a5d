"""The statistics are right as often as they say, on a few of the worlds of ``scripts/calibrate_statistics.py``."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "calibrate_statistics.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = spec_from_file_location("calibrate_statistics", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(script: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("calibration")
    found = script.run(150, 1, folder, "worlds")
    return found + script.run(50, 1, folder, "null", spread=0.0)


def error(values: Any) -> float:
    """Three standard errors of a mean."""
    return float(3 * np.std(values) / np.sqrt(len(values)))


def test_intervals_hold_the_truth_as_often_as_they_say(results: list[dict[str, Any]]) -> None:
    for what in ("coverage", "pairs"):
        values = [result[what] for result in results]
        assert np.mean(values) == pytest.approx(0.95, abs=error(values)), what
    assert all(result["inside"] and result["width"] > 0 for result in results)


def test_the_best_is_as_often_the_best_as_is_said(results: list[dict[str, Any]]) -> None:
    stated = np.array([each for result in results if result["spread"] for each in result["best"]], dtype=float)
    for low, high in ((0.05, 0.3), (0.3, 0.7), (0.7, 1.01)):
        of = stated[(stated[:, 0] >= low) & (stated[:, 0] < high)]
        assert len(of) > 20
        assert of[:, 1].mean() == pytest.approx(of[:, 0].mean(), abs=error(of[:, 1]) + 0.01)


def test_equal_methods_are_seldom_told_apart(results: list[dict[str, Any]]) -> None:
    null = [result for result in results if not result["spread"]]
    most = 0.05 + 3 * (0.05 * 0.95 / len(null)) ** 0.5
    assert np.mean([result["claim"] >= 0.95 for result in null]) <= most
    assert np.mean([result["holm"] for result in null if result["holm"] is not None]) <= most + 0.05


def test_the_whole_table_is_printed_and_chunks_are_kept(
    script: Any, results: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = script.report(results)
    for words in ("Coverage of 95 % intervals over π", "| factor |", "| P(best) |", "family-wise error", "null worlds"):
        assert words.lower() in text.lower()
    monkeypatch.setattr(script, "CHUNK", 2)
    first = script.run(3, 1, tmp_path, "worlds")
    monkeypatch.setattr(script, "assess", None)
    assert script.run(3, 1, tmp_path, "worlds") == first


@pytest.mark.parametrize("level", [0.4, 0.97, "loss"])
@pytest.mark.parametrize("curve", [False, True])
def test_worlds_have_the_truth_that_their_runs_have_on_average(script: Any, level: float | str, curve: bool) -> None:
    rng = np.random.default_rng(0)
    world = script.World(2, 10, 2000, 2.0, "equal", "t5", curve, level)
    gaps = []
    for _ in range(40):
        drawn = script.simulate(world, rng)
        gaps.append(np.mean([np.mean([*of.values()]) - drawn.truth[name] for name, of in drawn.scores.items()]))
    assert abs(np.mean(gaps)) < error(gaps) + 0.0005
