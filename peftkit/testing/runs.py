"""What must hold for whole runs with a method: processes agree, and a run that was broken off goes on as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from datasets import Dataset, DatasetDict

from peftkit.components import Example, Method, Task
from peftkit.plugins import Entry, Registry, load_registry
from peftkit.recipe import Recipe, load_recipe, without_none
from peftkit.runs import RunDirectory
from peftkit.testing.checks import Check, refused
from peftkit.testing.children import together
from peftkit.testing.tiny import saved, situation

COLOURS = ("red", "green", "blue")
WORDS = {"red": "blood fire rose", "green": "grass leaf frog", "blue": "sky sea ink"}
CLOSE = 1e-5


class Colours(Task):
    """Which colour things have: so easy that a tiny model learns it in a few steps."""

    name: Literal["colours"] = "colours"
    rows: int = 48
    """How many rows there are to train on."""
    streaming: bool = False
    """Whether they are read as they come."""

    kind = "classification"
    metrics = ("accuracy",)
    selects = "accuracy"

    @property
    def labels(self) -> tuple[str, ...]:
        """The colours."""
        return COLOURS

    @property
    def streams(self) -> bool:
        """As the option says."""
        return self.streaming

    def load(self) -> DatasetDict:
        """Rows of one to four words."""

        def split(start: int, number: int) -> Dataset:
            colours = [COLOURS[(start + i) % 3] for i in range(number)]
            things = [" ".join([WORDS[c].split()[(start + i // 3) % 3]] * (1 + i % 4)) for i, c in enumerate(colours)]
            return Dataset.from_dict({"thing": things, "colour": colours})

        train: Any = split(0, self.rows)
        train = train.to_iterable_dataset(num_shards=2) if self.streaming else train
        return DatasetDict({"train": train, "dev": split(1, 12), "test": split(2, 12)})

    def encode(self, row: Mapping[str, Any]) -> Example:
        """The things, and their colour."""
        return Example(f"(colour) {row['thing']}", row["colour"], COLOURS)


def two_processes(method: Method, architecture: str, folder: Path) -> None:
    """Checks that two processes with four rows each record the losses and metrics of one with eight, within 1e-5.

    Args:
        method: The method with its options.
        architecture: The architecture, a key of a family in ``peftkit.testing.tiny.FAMILIES``.
        folder: An empty folder.

    Raises:
        RefusedError: The method does not support this.
        AssertionError: The check failed.
    """
    refused(method.refuses(situation(architecture)))
    refused([method.draws] if method.draws else [])
    make = _recipes(method, architecture, folder)
    one, two = make("one", "train.batch_size=8"), make("two", "train.batch_size=4")
    together(one, _registry(method))
    together(two, _registry(method), 2)
    rows = [RunDirectory(_only(recipe)).evaluations() for recipe in (one, two)]
    assert RunDirectory(_only(two)).summary()["processes"] == 2
    for first, second in zip(*rows, strict=True):
        for split in ("train", "dev", "test"):
            for key, value in first[split].items():
                other = second[split][key]
                assert value == other or abs(value - other) <= CLOSE * max(1.0, abs(value)), (
                    f"step {first['step']}, {split} {key}: {other} of two processes, {value} of one"
                )


def resume(method: Method, architecture: str, folder: Path) -> None:
    """Checks that a run resumed after its second step ends bit for bit like one that was not interrupted.

    Args:
        method: The method with its options.
        architecture: The architecture, a key of a family in ``peftkit.testing.tiny.FAMILIES``.
        folder: An empty folder.

    Raises:
        RefusedError: The method does not support this.
        AssertionError: The check failed.
    """
    refused(method.refuses(situation(architecture)))
    recipe = _recipes(method, architecture, folder)("run", "train.checkpoint.every=1 steps", "train.checkpoint.keep=9")
    together(recipe, _registry(method))
    path = _only(recipe)
    before = _outcome(path)
    for later in sorted((path / "checkpoints").iterdir())[2:]:
        shutil.rmtree(later)
    (path / "summary.json").unlink()
    together(recipe, _registry(method), resume=str(path))
    assert RunDirectory(path).summary()["resumed_after_steps"] == [2]
    after = _outcome(path)
    different = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    assert not different, f"these differ after a resume: {different[:5]}"


def _recipes(method: Method, architecture: str, folder: Path) -> Callable[..., Recipe]:
    model = saved(architecture, folder / "model")
    base = folder / "recipe.toml"
    tables = {
        "run": {"name": "test"},
        "model": {"name": model.as_posix()},
        "task": {"name": "colours"},
        "method": method.model_dump(mode="json"),
        "train": {"batch_size": 8, "optimizer": "SGD", "learning_rate": 0.05, "budget": {"steps": 4}},
        "evaluate": {"every": "50%", "train_examples": 6, "dev_examples": 6, "test_examples": 6},
        "track": {"wandb": "off"},
    }
    base.write_text(tomli_w.dumps(without_none(tables)), encoding="utf-8")

    def made(name: str, *overrides: str) -> Recipe:
        output = f"run.output={json.dumps((folder / name).as_posix())}"
        return load_recipe(base, _registry(method), [output, *overrides])

    return made


def _registry(method: Method) -> Registry:
    """What is installed, with the task above, and the method's own class."""
    installed = load_registry()
    others = [e for e in installed.entries if (e.kind, e.name) != ("method", method.name) and e.name != "colours"]
    own = [
        Entry("task", "colours", Colours, "peftkit", "0"),
        Entry("method", method.name, type(method), "peftkit", "0"),
    ]
    return Registry((*others, *own), installed.failures, installed.distributions)


def _only(recipe: Recipe) -> Path:
    [path] = Path(recipe.run.output).iterdir()
    return path


def _outcome(path: Path) -> dict[str, Any]:
    """What a run records and saves, but for what clocks say and how much memory there was."""
    rows = RunDirectory(path).evaluations()
    for row in rows:
        del row["evaluation_seconds"]
        row["cost"] = {key: value for key, value in row["cost"].items() if key.endswith(("gmacs", "gflops"))}
    last = max((path / "checkpoints").iterdir())
    files = [*(path / "model").rglob("*"), *(path / "predictions").iterdir(), path / "examples.parquet"]
    files.append(last / "trainable.safetensors")
    return {"evaluations": rows, **{f.name: f.read_bytes() for f in files if f.is_file()}}


RUN_CHECKS: Mapping[str, Check] = {"two_processes": two_processes, "resume": resume}
"""The checks of whole runs, by name; a run of two processes takes some seconds."""
