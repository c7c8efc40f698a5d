"""Writes the first recipe and sweep for a user's data, for ``peftkit init``."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftkit.components import Method, ModelKind, RunSpec, TaskKind
from peftkit.components.types import TaskMatch
from peftkit.errors import InputError
from peftkit.plugins import Registry
from peftkit.recipe.resolve import BUILT_IN_MODELS, model_config, model_kind

METHODS = ("lora", "full", "ia3", "prefix_tuning", "bitfit", "head_only", "prompt_tuning")
"""The methods that a first comparison would try, the most useful first; those that the model supports are used."""
NUM_METHODS = 4
"""How many methods the sweep compares."""
ROUNDED_LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
"""The limits of lengths that are proposed."""


@dataclass(frozen=True)
class TaskCandidate:
    """A task that can use the data.

    Attributes:
        name: The task's name.
        kind: The kind of task.
        match: How it can use them.
    """

    name: str
    kind: TaskKind
    match: TaskMatch


@dataclass(frozen=True)
class Draft:
    """The texts of two files.

    Attributes:
        recipe: The recipe.
        sweep: The sweep that compares methods.
        methods: The methods of the sweep.
    """

    recipe: str
    sweep: str
    methods: tuple[str, ...]


def find_candidates(path: str, registry: Registry) -> list[TaskCandidate]:
    """Ask every installed task whether it can use a user's data.

    Args:
        path: A file, a folder, or the id of a hub dataset.
        registry: The installed components.

    Returns:
        The tasks that can, the best first; a task may occur several times, with other columns.

    Raises:
        InputError: There are no such data, or no task can use them.
    """
    candidates: list[TaskCandidate] = []
    problems: list[InputError] = []
    for name, entry in registry.all("task").items():
        task: Any = entry.component
        try:
            candidates += [TaskCandidate(name, task.kind, match) for match in task.recognize(path)]
        except InputError as error:  # another task may read such files
            problems.append(error)
    if not candidates and problems:
        raise problems[0]
    if not candidates:
        raise InputError(
            f"no task recognizes the columns of {path!r}; write a recipe by hand (docs/tasks.md lists the columns of "
            "each task), or rename the columns"
        )
    return sorted(candidates, key=lambda candidate: (-candidate.match.score, candidate.name))


def sensible_methods(model: str, task_kind: TaskKind, registry: Registry, number: int = NUM_METHODS) -> list[str]:
    """Return the methods that a first comparison should try with a model.

    Args:
        model: The model's name or folder.
        task_kind: The kind of task.
        registry: The installed components.
        number: How many methods to return at most.
    """
    config = model_config(model)
    kind: ModelKind | None = model_kind(config)
    spec = RunSpec(kind, task_kind, False, "no", config)
    entries = registry.all("method")
    usable = []
    for name in METHODS:
        method: Any = entries[name].component.model_validate({}) if name in entries else None
        if isinstance(method, Method) and not method.incompatible_with(spec):
            usable.append(name)
    return usable[:number]


def model_for(task_kind: TaskKind, registry: Registry) -> str:
    """Return the first built-in model that an objective supports with a kind of task.

    Args:
        task_kind: The kind of task.
        registry: The installed components.
    """
    objectives: list[Any] = [entry.component for entry in registry.all("objective").values()]
    supported = {family for each in objectives if each.task_kind == task_kind for family in each.families}
    return next((name for name in BUILT_IN_MODELS if model_kind(model_config(name)) in supported), BUILT_IN_MODELS[0])


def complete_candidate(candidate: TaskCandidate, registry: Registry) -> TaskCandidate:
    """Return a candidate with the options that skip invalid rows, if the data have some.

    Args:
        candidate: The task and its options.
        registry: The installed components.

    Raises:
        InputError: Too many rows are invalid.
    """
    task: Any = registry.all("task")[candidate.name].component.model_validate(dict(candidate.match.options))
    options, notes = task.options_for_bad_rows()
    match = candidate.match
    if not options:
        return candidate
    return replace(
        candidate, match=replace(match, options={**match.options, **options}, notes={**match.notes, **notes})
    )


def with_options(candidate: TaskCandidate, options: Mapping[str, Any], notes: Mapping[str, str]) -> TaskCandidate:
    """Return a candidate with further options.

    Args:
        candidate: The task and its options.
        options: The further options.
        notes: Comments on them.
    """
    match = candidate.match
    return replace(
        candidate, match=replace(match, options={**match.options, **options}, notes={**match.notes, **notes})
    )


def describe_skipped_rows(preview: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the options that skip as many rows as a preview did, and a comment with their number.

    Args:
        preview: The preview of a task that skips invalid rows.
    """
    skipped, splits = preview["skipped"], preview["splits"]
    counts = Counter(row["split"] for row in skipped)
    share = max(counts[name] / (counts[name] + split["rows"]) for name, split in splits.items())
    first = skipped[0]
    where = f"{first['file']}, row {first['row']}: {first['reason']}"
    note = f"{len(skipped):,} rows are invalid with this model; the first: {where}"
    return {"on_bad_row": "skip", "max_bad": f"{math.ceil(100 * share)}%"}, {"on_bad_row": " ".join(note.split())}


def round_length(tokens: int) -> int:
    """Return the smallest usual limit that is no shorter than a length in tokens.

    Args:
        tokens: The length.
    """
    return next((limit for limit in ROUNDED_LENGTHS if limit >= tokens), ROUNDED_LENGTHS[-1])


def draft_recipe(
    name: str,
    model: str,
    candidate: TaskCandidate,
    methods: Sequence[str],
    *,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
    schema: str = "",
) -> Draft:
    """Write the texts of a recipe and of a sweep.

    Args:
        name: The name of both.
        model: The model's name or folder.
        candidate: The task and its options.
        methods: The methods to compare; the recipe has the first.
        max_source_length: The limit of sources in tokens; None for the default.
        max_target_length: The limit of targets in tokens; None for the default.
        schema: The path of the JSON Schema, relative to the recipe; empty for none.
    """
    lengths = [
        f"{key} = {value}  # of the longest text, rounded up; longer ones would be truncated"
        for key, value in (("max_source_length", max_source_length), ("max_target_length", max_target_length))
        if value is not None
    ]
    objective = candidate.match.objective
    recipe = "\n".join(
        [
            *([f"#:schema {schema}"] if schema else []),
            f"# {candidate.name}: {candidate.match.reason}.",
            f"# Check it:  peftkit check {name}.toml",
            f"# See rows as the model reads them:  peftkit task preview {name}.toml",
            "",
            "[run]",
            f"name = {_toml(name)}",
            "",
            "[model]",
            f"name = {_toml(model)}  # a name on the Hugging Face hub, or a local folder",
            'dtype = "float32"',
            "",
            "[task]",
            f"name = {_toml(candidate.name)}",
            *[_option(key, value, candidate.match.notes) for key, value in candidate.match.options.items()],
            "",
            *(["[objective]", f"name = {_toml(objective)}  # peftkit list objectives", ""] if objective else []),
            "[method]",
            f"name = {_toml(methods[0])}  # peftkit list methods",
            "",
            "[train]",
            "batch_size = 16",
            "learning_rate = 1e-3  # the sweep finds a good one for each method",
            *lengths,
            "",
            "[train.budget]",
            "epochs = 3",
            "",
            "[evaluate]",
            'every = "10%"  # of the budget; each evaluation is a point of the learning curve',
            "",
            "[track]",
            'to = []  # or ["wandb"], ["tensorboard"], …',
            "",
        ]
    )
    sweep = "\n".join(
        [
            f"# Compares {len(methods)} methods at equal work on {name}.toml: each is tuned by the same number of",
            "# trials on dev, and then trained with each seed.",
            f"# See what it takes:  peftkit sweep plan {name}_sweep.toml",
            f"name = {_toml(name + '-sweep')}",
            f"recipe = {_toml(name + '.toml')}",
            "",
            "[set]",
            'train.checkpoint.every = "off"',
            "",
            "[axes]",
            "seed = [1, 2, 3]",
            "",
            *[line for method in methods for line in ("[[axes.method]]", f"name = {_toml(method)}", "")],
            "[tune]",
            "trials = 5",
            "",
            "[tune.set]",
            'evaluate = { every = "100%", at_start = false, train_examples = 0 }',
            "",
        ]
    )
    return Draft(recipe, sweep, tuple(methods))


def default_name(path: str) -> str:
    """Return a name for the recipe of a user's data.

    Args:
        path: A file, a folder, or the id of a hub dataset.
    """
    stem = Path(path).name.split(".")[0]
    cleaned = "".join(character if character.isalnum() or character in "_-" else "_" for character in stem)
    return cleaned.strip("_-")[:40] or "task"


def _option(key: str, value: Any, notes: Mapping[str, str]) -> str:
    note = f"  # {notes[key]}" if key in notes else ""
    return f"{key} = {_toml(value)}{note}"


def _toml(value: Any) -> str:
    """Write a value as TOML: JSON is TOML for texts, numbers and lists of them."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
