"""Sweeps with fake workers, which write run directories without training."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftkit.plugins import Registry, load_registry
from peftkit.recipe import dump_recipe, load_recipe
from peftkit.sweep.grid import Grid, expand
from peftkit.sweep.process_executor import Outcome
from peftkit.sweep.sweep_file import read_sweep

BASE = """
[model]
name = "pocket-t5"
[task]
name = "wordnet_topic"
[method]
name = "lora"
[train.budget]
steps = 4
[track]
to = []
"""

Written = Callable[..., Path]


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_registry()


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a sweep file and its base recipe."""

    def write_sweep(text: str, **tables: Any) -> Path:
        (tmp_path / "base.toml").write_text(BASE)
        path = tmp_path / "sweep.toml"
        head = f'name = "s"\nrecipe = "base.toml"\noutput = "{tmp_path}"\n'
        path.write_text(head + text)
        return path

    return write_sweep


@pytest.fixture
def grid(written: Written, registry: Registry) -> Callable[..., Grid]:
    def make_grid(text: str, overrides: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> Grid:
        path = written(text)
        return expand(path, read_sweep(path), registry, overrides, only)

    return make_grid


def best_at(rate: float, key: str = "learning_rate") -> Callable[[Any], float]:
    """A score that falls with the distance of a learning rate from the best one, on the log scale."""
    return lambda recipe: 1 - abs(math.log10(getattr(recipe.train, key) / rate)) / 10


BEST = best_at(1e-3)


class Planted:
    """Fake ``Workers``: writes a run directory for each recipe, with the best score at a rate of 1e-3."""

    def __init__(
        self,
        registry: Registry,
        fails: Callable[[Any], bool] = lambda recipe: False,
        diverges: Callable[[Any], bool] = lambda recipe: False,
        score: Callable[[Any], float] = BEST,
        jobs: int = 2,
    ) -> None:
        self.registry, self.fails, self.diverges, self.score, self.jobs = registry, fails, diverges, score, jobs
        self.stopped = 0
        self.started: list[Any] = []
        self.resumed: list[Path | None] = []
        self._guard = threading.Lock()

    def handle_signals(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    def run(self, file: Path, resume: Path | None, log: Path) -> Outcome:
        recipe = load_recipe(file, self.registry)
        with self._guard:
            self.started.append(recipe)
            self.resumed.append(resume)
            number = len(self.started)
        folder = resume or Path(recipe.run.output) / f"{recipe.run.name}-{number:04}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.toml").write_text(dump_recipe(recipe))
        if self.fails(recipe):
            (folder / "summary.json").write_text(json.dumps({"format": 1, "status": "failed"}))
            return Outcome(1, 0.1, ("first", "peftkit: error: the disk is full"))
        if self.diverges(recipe):
            summary: dict[str, Any] = {"format": 1, "status": "diverged", "error": "nan", "cost": {"gmacs": 5.0}}
            (folder / "summary.json").write_text(json.dumps(summary))
            return Outcome(1, 0.1, ("the loss is nan",))
        score = self.score(recipe)
        summary = {
            "format": 1,
            "status": "done",
            "selection_metric": "accuracy",
            "selected": {"step": 4, "dev": {"accuracy": score, "loss": 2 - score}},
            "cost": {"gmacs": 10.0},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        return Outcome(0, 0.1, ())


def trials_of(workers: Planted, method: str) -> list[Any]:
    """The recipes of a method's trials, without those of the head."""
    trials = [recipe for recipe in workers.started if "trials" in Path(recipe.run.output).parts]
    return [
        recipe
        for recipe in trials
        if recipe.method.name == method and not any(p.startswith("head-") for p in Path(recipe.run.output).parts)
    ]


@pytest.fixture
def planted(registry: Registry) -> Callable[..., Planted]:
    return lambda **options: Planted(registry, **options)
