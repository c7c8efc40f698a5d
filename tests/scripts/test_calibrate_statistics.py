"""The statistics are calibrated on a few scenarios of ``scripts/calibrate_statistics.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "calibrate_statistics.py"


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    sys.path.insert(0, str(SCRIPT.parent))
    spec = spec_from_file_location("calibrate_statistics", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def scenarios(script: Any) -> Any:
    return import_module("calibration.scenarios")


@pytest.fixture(scope="module")
def criteria(script: Any) -> Any:
    return import_module("calibration.criteria").criteria


@pytest.fixture(scope="module")
def results(script: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("calibration")
    results: list[dict[str, Any]] = script.run(60, 1, folder, "worlds")
    return results + script.run(40, 1, folder, "null", spread=0.0)


def error(values: Any) -> float:
    """Three standard errors of a mean."""
    return float(3 * np.std(values) / np.sqrt(len(values)))


def test_intervals_cover_the_truth(results: list[dict[str, Any]]) -> None:
    for key in ("coverage", "pairs"):
        values = [result[key] for result in results]
        assert np.mean(values) == pytest.approx(0.95, abs=error(values)), key
    assert all(result["inside"] and result["width"] > 0 for result in results)


def test_probabilities_of_the_best_are_calibrated(results: list[dict[str, Any]]) -> None:
    stated = np.array([each for result in results if result["spread"] for each in result["best"]], dtype=float)
    for low, high in ((0.05, 0.3), (0.3, 0.7), (0.7, 1.01)):
        inside = stated[(stated[:, 0] >= low) & (stated[:, 0] < high)]
        assert len(inside) > 20
        assert inside[:, 1].mean() == pytest.approx(inside[:, 0].mean(), abs=error(inside[:, 1]) + 0.01)


def test_equal_methods_are_seldom_separated(results: list[dict[str, Any]]) -> None:
    null = [result for result in results if not result["spread"]]
    most = 0.05 + 3 * (0.05 * 0.95 / len(null)) ** 0.5
    assert np.mean([result["claim"] >= 0.95 for result in null]) <= most
    assert np.mean([result["holm"] for result in null if result["holm"] is not None]) <= most + 0.05


def test_report_prints_all_tables_and_chunks_are_kept(
    script: Any, criteria: Any, results: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = script.report(results, 1)
    assert sum(line.endswith(("| yes |", "| no |")) for line in text.splitlines()) == len(criteria(results))
    for words in (
        "Coverage of 95 % intervals over π",
        "| criterion | result | met |",
        "| factor |",
        "| P(best) |",
        "family-wise error",
        "null scenarios",
    ):
        assert words.lower() in text.lower()
    monkeypatch.setattr(script, "CHUNK", 2)
    first = script.run(3, 1, tmp_path, "worlds")
    monkeypatch.setattr(script, "assess", None)
    assert script.run(3, 1, tmp_path, "worlds") == first


def test_results_do_not_depend_on_the_number_of_processes(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "CHUNK", 1)
    alone, both = (
        script.run(3, 2, tmp_path / str(number), "worlds", number, methods=2, examples=100) for number in (1, 2)
    )
    assert [{**each, "seconds": 0} for each in alone] == [{**each, "seconds": 0} for each in both]


def planted(
    scenarios: Any, *, coverage: float = 0.95, stated: float = 0.97, correct: bool = True, **changed: Any
) -> list[Any]:
    """Equal results of enough scenarios to make the criteria strict."""
    results = []
    for number in range(400):
        scenario = {
            **vars(scenarios.Scenario(2, 3, 100, 2.0 if number % 2 else 0.0, "equal", "normal", False, 0.6)),
            **changed,
        }
        null = not scenario["spread"]
        statement = {
            "best": [[0.5, number % 4 == 1]] if null else [[stated, correct]],
            "claim": 0.5 if null else stated,
        }
        judged = {"claim_right": correct, "holm": False if null else None, "coverage": coverage, "inside": True}
        results.append({**scenario, **statement, **judged, "width": 0.1, "pairs": 0.95})
    return results


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, set()),
        ({"coverage": 0.965}, {0}),
        ({"coverage": 0.935}, {0}),
        ({"coverage": 0.92}, {0, 1}),
        ({"coverage": 0.89}, {0, 1, 2}),
        ({"width": 0.0}, {3}),
        ({"inside": False}, {3}),
        ({"stated": 0.99, "correct": False}, {4, 5}),
    ],
)
def test_every_criterion_can_fail(scenarios: Any, criteria: Any, changed: dict[str, Any], missed: set[int]) -> None:
    results = planted(scenarios, **{key: changed[key] for key in changed if key in ("coverage", "stated", "correct")})
    results = [{**each, **{key: changed[key] for key in changed if key in ("width", "inside")}} for each in results]
    results += [{**each} for each in results]  # 400 probabilities of non-null scenarios
    assert {place for place, (*_, met) in enumerate(criteria(results)) if met is False} == missed


def test_false_claims_about_equal_methods_fail_criteria(scenarios: Any, criteria: Any) -> None:
    results = [{**each, "claim": 0.96, "holm": True if not each["spread"] else None} for each in planted(scenarios)]
    assert [met for *_, met in criteria(results)][6:] == [False, False, False]


@pytest.mark.parametrize("level", [0.4, 0.97, "loss"])
@pytest.mark.parametrize("curve", [False, True])
def test_the_true_score_is_the_mean_of_simulated_runs(scenarios: Any, level: float | str, curve: bool) -> None:
    rng = np.random.default_rng(0)
    scenario = scenarios.Scenario(2, 10, 2000, 2.0, "equal", "t5", curve, level)
    gaps = []
    for _ in range(40):
        simulation = scenarios.simulate(scenario, rng)
        gaps.append(
            np.mean([np.mean([*runs.values()]) - simulation.truth[name] for name, runs in simulation.scores.items()])
        )
    assert abs(np.mean(gaps)) < error(gaps) + 0.0005
