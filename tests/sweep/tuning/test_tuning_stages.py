from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from peftkit.cli import main
from peftkit.errors import PeftkitError
from peftkit.plugins import Registry
from peftkit.sweep.grid import Grid
from peftkit.sweep.scheduler import Sweep
from peftkit.sweep.tuning.tuning_stages import check_tuning
from tests.sweep.conftest import Written, best_at, trials_of

AXES = """
[axes]
method = ["lora", "full"]
seed = [1, 2]
"""
TUNE = """
[tune]
trials = 3
"""


@pytest.mark.parametrize(
    ("axes", "tune", "words"),
    [
        ("train.learning_rate = [0.1]", "", "train.learning_rate is both an axis and tuned"),
        ("", '[tune.space.lara]\n"method.r" = [2, 4]', r"tune.space.lara: no method 'lara'.*mean 'lora'"),
        ("", '[tune.space.lora]\n"train.learning_rate" = { low = 1, high = 0.1 }', "tune.space.lora"),
        ("", '[tune.space.lora]\n"train.learning_rte" = [0.1, 0.2]', "learning_rte.*learning_rate"),
        ("", '[tune.space.lora]\n"method.r" = [0, 2]', "method.r"),
        ("", '[tune.space.lora]\n"method.r" = []', r"tune.space.lora: method.r needs at least one value"),
        ("", '[tune.head]\nmethod = "hed_only"', r"tune.head.method: no method 'hed_only'.*mean 'head_only'"),
        ("", "[tune.set]\ntrain.budgit.steps = 2", "budgit.*budget"),
    ],
)
def test_invalid_tuning_is_rejected_before_any_run(
    axes: str, tune: str, words: str, grid: Callable[..., Grid], registry: Registry
) -> None:
    expanded = grid(f"{AXES}{axes}\n{TUNE}{tune}\n")
    with pytest.raises(PeftkitError, match=words):
        check_tuning(expanded, registry)


def test_valid_tuning_is_valid_for_a_part_of_the_sweep(grid: Callable[..., Grid], registry: Registry) -> None:
    text = AXES + TUNE + '[tune.space.lora]\n"method.r" = [2, 4]\n[tune.set]\ntrain.budget.steps = 2\n'
    check_tuning(grid(text), registry)
    check_tuning(grid(text, only=("method=full",)), registry)
    check_tuning(grid(AXES), registry)


@pytest.mark.parametrize(
    ("seeds", "trials"), [("seed = [1, 2]", {0, 3}), ("run.seed = [0, 1, 2]", {3, 4}), ("", {0, 1})]
)
def test_seeds_of_trials_differ_from_those_of_final_runs(
    seeds: str, trials: set[int], grid: Callable[..., Grid], registry: Registry, planted: Any
) -> None:
    text = f'[axes]\nmethod = ["lora"]\n{seeds}\n[tune]\ntrials = 3\n'
    for only in ((), ("run.seed=1",) if seeds else ()):
        workers = planted()
        expanded = grid(text, only=only)
        shutil.rmtree(expanded.folder, ignore_errors=True)
        assert Sweep(expanded, registry, workers, lambda text: None).run() == []
        assert {recipe.run.seed for recipe in trials_of(workers, "lora")} == trials


def test_settings_at_the_edge_are_printed_at_the_end_and_by_status(
    written: Written,
    registry: Registry,
    planted: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The best rate of one of two methods is far outside the declared range."""

    def score(recipe: Any) -> float:
        return best_at(10.0 if recipe.method.name == "lora" else 1e-4)(recipe)

    monkeypatch.setattr("peftkit.sweep.process_executor.Workers", lambda *words, **options: planted(score=score))
    space = '[tune.space.lora]\n"train.learning_rate" = { low = 1e-4, high = 1e-2, log = true }\n'
    path = str(written(AXES + TUNE + space))
    assert main(["sweep", path]) == 0
    out = capsys.readouterr().out
    edge = "train.learning_rate at its high end (1)"
    assert f"tuning stopped at the edge of its range: lora: {edge}" in out
    assert "range: full" not in out
    assert main(["sweep", "status", path]) == 0
    [lora] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lora")]
    assert lora.endswith(f"stopped at the edge of its range: {edge}")
    assert main(["sweep", "status", path, "--json"]) == 0
    studies = json.loads(capsys.readouterr().out)["studies"]
    assert {study["label"]: bool(study["at_edge"]) for study in studies} == {"lora": True, "full": False}
