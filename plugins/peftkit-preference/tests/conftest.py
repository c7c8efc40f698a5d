"""Small files of preferences, and runs of tiny models on them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftkit import Method, Objective, Task
from peftkit.plugins import load_registry
from peftkit.recipe import Recipe
from peftkit.run_directory import RunDirectory
from peftkit.testing.run_checks import recipe_maker, registry_with
from peftkit_preference import PreferencePairs, UnpairedPreference

COLOURS = ("red", "green", "blue")
WORDS = {"red": "blood fire rose", "green": "grass leaf frog", "blue": "sky sea ink"}
SIZES = {"train": 24, "dev": 12, "test": 12}
MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PreferencePairs:
    """Which of two colours a thing has."""
    folder = tmp_path_factory.mktemp("pairs")
    for split, number in SIZES.items():
        write_lines(folder / f"{split}.jsonl", make_pairs(number, split))
    return PreferencePairs(path={split: str(folder / f"{split}.jsonl") for split in SIZES})


@pytest.fixture(scope="session")
def unpaired(tmp_path_factory: pytest.TempPathFactory) -> UnpairedPreference:
    """Whether a thing has a colour."""
    folder = tmp_path_factory.mktemp("unpaired")
    for split, number in SIZES.items():
        rows = [
            {"prompt": row["prompt"], "completion": row["chosen" if good else "rejected"], "label": good}
            for row, good in zip(make_pairs(number, split), [True, False] * number, strict=False)
        ]
        write_lines(folder / f"{split}.jsonl", rows)
    return UnpairedPreference(path={split: str(folder / f"{split}.jsonl") for split in SIZES})


def make_pairs(number: int, seed: str) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        right, wrong = draw.sample(COLOURS, 2)
        thing = " ".join(draw.choices(WORDS[right].split(), k=draw.randint(1, 4)))
        rows.append({"prompt": f"(colour) {thing}", "chosen": right, "rejected": f"{wrong} {wrong}"})
    return rows


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def method(name: str, **options: Any) -> Method:
    component: Any = load_registry("").find("method", name).component
    validated: Method = component.model_validate({**component.tiny_options, **options})
    return validated


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., MakeRecipe]:
    """Return a maker of recipes for a method, an architecture, an objective and a task."""

    def make_for(method: Method, architecture: str, objective: Objective, task: Task) -> MakeRecipe:
        tables = {"task": task.model_dump(mode="json"), "objective": objective.model_dump(mode="json")}
        folder = tmp_path / f"{method.name}-{architecture}-{objective.name}"
        return recipe_maker(method, architecture, folder, objective, task, changes=tables)

    return make_for


@pytest.fixture
def train(pairs: PreferencePairs) -> Callable[[Recipe, Objective, Task], RunDirectory]:
    """Return a function that runs a recipe in this process."""
    from peftkit.train.run import run

    def trained(recipe: Recipe, objective: Objective, task: Task) -> RunDirectory:
        path = run(recipe, registry_with(objective, task), quiet=True)
        assert path is not None
        return RunDirectory(path)

    return trained
