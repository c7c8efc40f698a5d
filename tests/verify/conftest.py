"""A finished run of an encoder on files, and copies of it to change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from peftkit.plugins import Registry
from peftkit.recipe import load_recipe
from peftkit.train.run import run

COLOURS = {"red": "blood fire rose", "green": "grass leaf frog", "blue": "sky sea ink"}


def write_rows(folder: Path) -> dict[str, Path]:
    """The files of a task with three labels, by split."""
    pairs = [(word, colour) for colour, words in COLOURS.items() for word in words.split()]
    files = {}
    for split, times in (("train", 6), ("dev", 2), ("test", 2)):
        rows = [{"text": " ".join([word] * (1 + i)), "label": colour} for i in range(times) for word, colour in pairs]
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


@pytest.fixture(scope="session")
def original(models: dict[str, Path], registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an encoder on files; its curve leaves out rows of dev and test."""
    folder = tmp_path_factory.mktemp("original")
    files = write_rows(folder)
    paths = ", ".join(f'{split} = "{file.as_posix()}"' for split, file in files.items())
    (folder / "recipe.toml").write_text(
        f"""
        [run]
        name = "verified"
        output = "{(folder / "runs").as_posix()}"
        [model]
        name = "{models["encoder"].as_posix()}"
        [task]
        name = "text_classification"
        path = {{ {paths} }}
        [method]
        name = "lora"
        [train]
        batch_size = 6
        learning_rate = 3e-2
        optimizer = "adamw"
        budget.steps = 6
        [evaluate]
        every = "50%"
        train_examples = 6
        dev_examples = 12
        test_examples = 12
        [track]
        wandb = "off"
        """,
        encoding="utf-8",
    )
    path = run(load_recipe(folder / "recipe.toml", registry), registry)
    assert path is not None
    return path


@pytest.fixture
def copied(original: Path, tmp_path: Path) -> Path:
    """A copy of the run that may be changed."""
    return Path(shutil.copytree(original, tmp_path / "run"))
