"""Checks of whole runs with a method: several processes give the same results, and so does a resumed run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from datasets import Dataset, DatasetDict

from peftkit.components import Callback, Component, Example, Method, Task
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, drop_none, load_recipe
from peftkit.run_directory import RunDirectory
from peftkit.testing.component_checks import check_round_trip
from peftkit.testing.method_checks import Check, raise_if_unsupported
from peftkit.testing.processes import run_processes
from peftkit.testing.registries import registry_of
from peftkit.testing.tiny_models import run_spec, save_tiny_model

COLOURS = ("red", "green", "blue")
WORDS = {"red": "blood fire rose", "green": "grass leaf frog", "blue": "sky sea ink"}
TOLERANCE = 1e-5
EVERY_STEP = ("train.checkpoint.every=1 steps", "train.checkpoint.keep=9")
"""Options of runs that are resumed after any of their steps."""


class Colours(Task):
    """A task that a tiny model learns in a few steps: the colours of things."""

    name: Literal["colours"] = "colours"
    rows: int = 48
    """The number of training rows."""
    streaming: bool = False
    """Whether ``train`` is a streaming data set."""

    kind = "classification"
    metrics = ("accuracy",)
    selection_metric = "accuracy"

    @property
    def labels(self) -> tuple[str, ...]:
        """The colours, which are the labels."""
        return COLOURS

    @property
    def is_streaming(self) -> bool:
        """Whether ``train`` is a streaming data set."""
        return self.streaming

    def load(self) -> DatasetDict:
        """Create rows with one to four words."""

        def split(start: int, count: int) -> Dataset:
            colours = [COLOURS[(start + i) % 3] for i in range(count)]
            things = [" ".join([WORDS[c].split()[(start + i // 3) % 3]] * (1 + i % 4)) for i, c in enumerate(colours)]
            return Dataset.from_dict({"thing": things, "colour": colours})

        train: Any = split(0, self.rows)
        train = train.to_iterable_dataset(num_shards=2) if self.streaming else train
        return DatasetDict({"train": train, "dev": split(1, 12), "test": split(2, 12)})

    def to_example(self, row: Mapping[str, Any]) -> Example:
        """Convert a row to an example."""
        return Example(f"(colour) {row['thing']}", row["colour"], COLOURS)


def check_two_processes(method: Method, architecture: str, folder: Path) -> None:
    """Check that two processes with four rows each record the losses and metrics of one with eight, within 1e-5.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: An empty folder.

    Raises:
        NotSupportedError: The method does not support this check.
        AssertionError: The check failed.
    """
    raise_if_unsupported(method.incompatible_with(run_spec(architecture)))
    raise_if_unsupported([method.microbatch_dependence] if method.microbatch_dependence else [])
    check_equal_results(recipe_maker(method, architecture, folder), registry_with(method))


def check_equal_results(make_recipe: Callable[..., Recipe], registry: Registry) -> None:
    """Check that two processes with four rows each record the losses and metrics of one with eight, within 1e-5.

    Args:
        make_recipe: Returns a recipe, given the name of the output folder and overrides.
        registry: The components.

    Raises:
        AssertionError: The check failed.
    """
    one, two = make_recipe("one", "train.batch_size=8"), make_recipe("two", "train.batch_size=4")
    run_processes(one, registry)
    run_processes(two, registry, 2)
    assert RunDirectory(only_run(two)).summary()["processes"] == 2
    check_equal_evaluations(only_run(one), only_run(two))


def check_equal_evaluations(one: Path, other: Path) -> None:
    """Check that two runs record the same losses and metrics, within 1e-5.

    Args:
        one: The directory of a run.
        other: That of a run in several processes.

    Raises:
        AssertionError: The check failed.
    """
    rows = [RunDirectory(path).evaluations() for path in (one, other)]
    for first, second in zip(*rows, strict=True):
        for split in ("train", "dev", "test"):
            for key, value in first[split].items():
                other_value = second[split][key]
                assert value == other_value or abs(value - other_value) <= TOLERANCE * max(1.0, abs(value)), (
                    f"step {first['step']}, {split} {key}: {other_value} with several processes, {value} with one"
                )


def check_resume(method: Method, architecture: str, folder: Path) -> None:
    """Check that a run resumed after its second step ends bit for bit like one that was not interrupted.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: An empty folder.

    Raises:
        NotSupportedError: The method does not support this check.
        AssertionError: The check failed.
    """
    raise_if_unsupported(method.incompatible_with(run_spec(architecture)))
    recipe = recipe_maker(method, architecture, folder)("run", *EVERY_STEP)
    run_processes(recipe, registry_with(method))
    check_resume_after(2, recipe, registry_with(method))


def check_callback(callback: Callback, folder: Path, *, changes_training: bool = False) -> None:
    """Check a callback in short runs of a tiny model.

    Its options survive a round trip through JSON. Evaluations are the same as without it, unless it changes training. A
    run resumed after its first or second step ends bit for bit like one that was not interrupted, with the same state
    of the callback. Two processes end at the same step as one.

    Args:
        callback: The callback with its options.
        folder: An empty folder.
        changes_training: Whether the callback changes what is trained, such as the weights.

    Raises:
        AssertionError: The check failed.
    """
    check_round_trip(callback)
    options = (*EVERY_STEP, "evaluate.every=1 steps")
    registry = registry_with(callback)
    full = registry.find("method", "full").component.model_validate({})
    assert isinstance(full, Method)
    make_recipe = recipe_maker(full, "llama", folder)
    (folder / "callback.toml").write_text(
        'extends = "recipe.toml"\n' + tomli_w.dumps({"callback": [drop_none(callback.model_dump(mode="json"))]}),
        encoding="utf-8",
    )

    def make_with_callback(name: str, *overrides: str) -> Recipe:
        output = f"run.output={json.dumps((folder / name).as_posix())}"
        return load_recipe(folder / "callback.toml", registry, [output, *options, *overrides])

    plain, one = make_recipe("without", *options), make_with_callback("with")
    two = make_with_callback("two", "train.batch_size=4")
    run_processes(plain, registry)
    run_processes(one, registry)
    run_processes(two, registry, 2)
    without, outcome = _outcome(only_run(plain))["evaluations"], _outcome(only_run(one))
    assert changes_training or outcome["evaluations"] == without[: len(outcome["evaluations"])], (
        "evaluations differ from those of a run without the callback; if it is meant to change training, pass "
        "changes_training=True"
    )
    summaries = [RunDirectory(only_run(recipe)).summary() for recipe in (one, two)]
    ends = [(summary["steps"], summary["stopped_early"]) for summary in summaries]
    assert ends[0] == ends[1], f"one process ended with {ends[0]}, two with {ends[1]}"
    if summaries[0]["steps"] > 1:
        check_resume_after(min(2, summaries[0]["steps"] - 1), one, registry)


def check_resume_after(
    step: int, recipe: Recipe, registry: Registry, run: Callable[..., object] = run_processes
) -> None:
    """Check that a finished run ends with the same results when it is resumed after a step.

    Args:
        step: The step.
        recipe: The recipe of the run, which saves a checkpoint after every step.
        registry: The components.
        run: Runs the recipe with these components and ``resume``; in one process by default.

    Raises:
        AssertionError: The check failed.
    """
    path = only_run(recipe)
    before = _outcome(path)
    for later in sorted((path / "checkpoints").iterdir())[step:]:
        shutil.rmtree(later)
    (path / "summary.json").unlink()
    run(recipe, registry, resume=str(path))
    assert RunDirectory(path).summary()["resumed_after_steps"] == [step]
    after = _outcome(path)
    different = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    assert not different, f"results differ after resuming: {different[:5]}"


def recipe_maker(
    method: Method,
    architecture: str,
    folder: Path,
    *others: Component,
    changes: Mapping[str, Any] | None = None,
) -> Callable[..., Recipe]:
    """Return a function that makes small recipes, given the name of the output folder and overrides.

    Args:
        method: The method with its options.
        architecture: The architecture, a key in ``peftkit.testing.tiny_models.FAMILIES``.
        folder: An empty folder.
        *others: Further components that the recipes may name.
        changes: Tables that replace those of the recipe, by name.
    """
    model = save_tiny_model(architecture, folder / "model")
    base = folder / "recipe.toml"
    tables = {
        "run": {"name": "test"},
        "model": {"name": model.as_posix()},
        "task": {"name": "colours"},
        "method": method.model_dump(mode="json"),
        "train": {"batch_size": 8, "optimizer": "SGD", "learning_rate": 0.05, "budget": {"steps": 4}},
        "evaluate": {"every": "50%", "train_examples": 6, "dev_examples": 6, "test_examples": 6},
        "track": {"to": []},
        **(changes or {}),
    }
    base.write_text(tomli_w.dumps(drop_none(tables)), encoding="utf-8")

    def make_recipe(name: str, *overrides: str) -> Recipe:
        output = f"run.output={json.dumps((folder / name).as_posix())}"
        return load_recipe(base, registry_with(method, *others), [output, *overrides])

    return make_recipe


def registry_with(*components: Component) -> Registry:
    """Return the built-in components with the task above and the classes of the components.

    Args:
        *components: The components; they replace built-in ones of the same names.
    """
    return registry_of(Colours(), *components)


def only_run(recipe: Recipe) -> Path:
    """Return the only run directory of a recipe's output folder."""
    [path] = Path(recipe.run.output).iterdir()
    return path


def _outcome(path: Path) -> dict[str, Any]:
    """Return what a run records and saves, without times and memory."""
    rows = RunDirectory(path).evaluations()
    for row in rows:
        del row["evaluation_seconds"]
        row["cost"] = {key: value for key, value in row["cost"].items() if key.endswith(("gmacs", "gflops"))}
    last = max((path / "checkpoints").iterdir())
    files = [*(path / "model").rglob("*"), *(path / "predictions").iterdir(), path / "examples.parquet"]
    files.append(last / "trainable.safetensors")
    state = json.loads((last / "state.json").read_text(encoding="utf-8"))["state"]
    summary = RunDirectory(path).summary()
    recorded = {"evaluations": rows, "callbacks": state["callbacks"], "stopped_early": summary["stopped_early"]}
    return {**recorded, **{f.name: f.read_bytes() for f in files if f.is_file()}}


RUN_CHECKS: Mapping[str, Check] = {"two_processes": check_two_processes, "resume": check_resume}
"""The checks of whole runs by name; each takes a few seconds."""
