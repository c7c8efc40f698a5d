"""Which estimates of a plan are made, and which are kept from earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.tables.train_config import WITHOUT_COST, TrainConfig
from peftkit.sweep.grid import Grid
from peftkit.sweep.sweep_plan import estimate_sweep

AXES = '[axes]\nmethod = ["lora", "full"]\nseed = [1, 2]\n'


@dataclass
class Estimate:
    gmacs: float = 3.0
    gmacs_per_step: float = 1.0
    seconds_per_step: float | None = None


class Estimator:
    """Notes the methods whose work is estimated."""

    def __init__(self) -> None:
        self.estimated: list[str] = []

    def estimate(self, recipe: Recipe, *, trial: bool) -> Estimate:
        self.estimated.append(recipe.method.name)
        return Estimate()


@pytest.fixture
def estimator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Estimator:
    estimator = Estimator()
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("peftkit.sweep.sweep_plan._CostEstimator._estimator", estimator)
    return estimator


def test_an_estimate_is_made_again_when_the_code_of_a_plugin_changes(
    grid: Callable[..., Grid], registry: Registry, estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = {"own": "1"}
    monkeypatch.setattr("peftkit.sweep.sweep_plan.code_digests", lambda recipe, registry, objective: dict(code))
    for _ in range(2):
        plan = estimate_sweep(grid(AXES), registry, trial=False)
        assert [study.gmacs for study in plan.studies] == [6.0, 6.0]
        assert estimator.estimated == ["lora", "full"]
    code["own"] = "2"  # its version is the same
    estimate_sweep(grid(AXES), registry, trial=False)
    assert estimator.estimated == ["lora", "full"] * 2


def test_settings_without_cost_share_an_estimate(
    grid: Callable[..., Grid], registry: Registry, estimator: Estimator
) -> None:
    assert {*WITHOUT_COST} <= TrainConfig.model_fields.keys()
    axes = "[axes]\ntrain.learning_rate = [1e-3, 1e-4]\ntrain.max_grad_norm = [0.0, 1.0]\ntrain.workers = [0, 1]\n"
    assert len(estimate_sweep(grid(axes), registry, trial=False).studies) == 8
    assert estimator.estimated == ["lora"]
    estimate_sweep(grid("[axes]\ntrain.batch_size = [4, 16]\nmethod = ['lora']\n"), registry, trial=False)
    assert len(estimator.estimated) == 3


def test_an_estimate_is_made_again_when_a_file_of_the_task_changes(
    grid: Callable[..., Grid], registry: Registry, estimator: Estimator, tmp_path: Path
) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    axes = f'[axes]\n[[axes.on]]\nlabel = "own"\ntask = {{name = "text_classification", path = "{folder}"}}\n'
    for split in ("train", "dev", "test"):
        (folder / f"{split}.csv").write_text("text,label\na,b\n")
    for _ in range(2):
        estimate_sweep(grid(axes), registry, trial=False)
        assert len(estimator.estimated) == 1
    (folder / "train.csv").write_text("text,label\na,b\nc,d\n")
    estimate_sweep(grid(axes), registry, trial=False)
    assert len(estimator.estimated) == 2
