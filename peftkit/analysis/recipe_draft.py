"""Writes the first recipe and sweep for a user's data, for ``peftkit init``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.analysis.task_candidates import TaskCandidate, describe_candidate, families_for, objectives_for, toml_value
from peftkit.components import Method, ModelKind, RunSpec, TaskKind
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from peftkit.recipe.model_names import BUILT_IN_MODELS, model_config, model_kind, trained_kind

METHODS = ("lora", "full", "ia3", "prefix_tuning", "bitfit", "head_only", "prompt_tuning")
"""The methods that a first comparison would try, the most useful first; those that the model supports are used."""
MOST_OTHERS = 4
"""How many other readings of the data a recipe's comment names."""
NUM_METHODS = 4
"""How many methods the sweep compares."""
ROUNDED_LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
"""The limits of lengths that are proposed."""


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


def sensible_methods(model: str, task_kind: TaskKind, registry: Registry, number: int = NUM_METHODS) -> list[str]:
    """Return the methods that a first comparison should try with a model.

    Args:
        model: The model's name or folder.
        task_kind: The kind of task.
        registry: The installed components.
        number: How many methods to return at most.
    """
    config = model_config(model)
    objectives = objectives_for(task_kind, registry)
    kind: ModelKind | None = trained_kind(config, objectives)
    has_head = not any(each.encodes_texts for each in objectives)
    spec = RunSpec(kind, task_kind, False, "no", config, has_head=has_head)
    entries = registry.all("method")
    usable = []
    for name in METHODS:
        method: Any = entries[name].component.model_validate({}) if name in entries else None
        if isinstance(method, Method) and not method.incompatible_with(spec):
            usable.append(name)
    return usable[:number]


def model_for(task_kind: TaskKind, registry: Registry) -> str:
    """Return the built-in model of the first kind that an objective supports with a kind of task.

    Args:
        task_kind: The kind of task.
        registry: The installed components.
    """
    models = {model_kind(model_config(name)): name for name in BUILT_IN_MODELS}
    return next((models[each] for each in families_for(task_kind, registry) if each in models), BUILT_IN_MODELS[0])


def suggest_objective(recipe: Recipe) -> dict[str, tuple[Any, str]]:
    """Return the options that a recipe's objective needs for its model, with comments and the objective's name.

    Args:
        recipe: The recipe, whose tokenizer is loaded.

    Returns:
        The options; empty if it needs none.
    """
    from peftkit.models.load_base_model import load_objective  # imports transformers

    _, objective = load_objective(recipe)
    options = objective.component.suggest_options(objective.context)
    return {"name": (objective.component.name, "peftkit list objectives"), **options} if options else {}


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
    objective: Mapping[str, tuple[Any, str]] | None = None,
    others: Sequence[TaskCandidate] = (),
    folder: Path = Path(),
    max_source_length: int | None = None,
    max_target_length: int | None = None,
    with_schemas: bool = False,
) -> Draft:
    """Write the texts of a recipe and of a sweep.

    Args:
        name: The name of both.
        model: The model's name or folder.
        candidate: The task and its options.
        methods: The methods to compare; the recipe has the first.
        objective: Options of the objective and comments on them, its name included; None for those of the task.
        others: Other ways to read the data, which a comment names.
        folder: The folder that both are written to, for the commands in comments.
        max_source_length: The limit of sources in tokens; None for the default.
        max_target_length: The limit of targets in tokens; None for the default.
        with_schemas: Whether the JSON Schemas of both are in the same folder.
    """
    lengths = [
        f"{key} = {value}  # of the longest text, rounded up; longer ones would be truncated"
        for key, value in (("max_source_length", max_source_length), ("max_target_length", max_target_length))
        if value is not None
    ]
    if objective is None:
        name_note = "peftkit list objectives"
        objective = {"name": (candidate.match.objective, name_note)} if candidate.match.objective else {}
    path, sweep_path = folder / f"{name}.toml", folder / f"{name}_sweep.toml"
    recipe = "\n".join(
        [
            *(["#:schema ./recipe.schema.json"] if with_schemas else []),
            f"# {candidate.name}: {_comment(candidate.match.reason)}.",
            *_describe_others(others),
            f"# Check it:  {command('check', path)}",
            f"# See rows as the model reads them:  {command('task', 'preview', path)}",
            "",
            "[run]",
            f"name = {toml_value(name)}",
            "",
            "[model]",
            f"name = {toml_value(model)}  # a name on the Hugging Face hub, or a local folder",
            'dtype = "float32"',
            "",
            "[task]",
            f"name = {toml_value(candidate.name)}",
            *[_option(key, value, candidate.match.notes) for key, value in candidate.match.options.items()],
            "",
            *(["[objective]", *_objective_lines(objective), ""] if objective else []),
            "[method]",
            f"name = {toml_value(methods[0])}  # peftkit list methods",
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
            *(["#:schema ./sweep.schema.json"] if with_schemas else []),
            f"# Compares {len(methods)} methods on {name}.toml: each is tuned by the same number of trials on dev, and",
            "# then trained with each seed, on the same rows for the same number of epochs. For equal work, set",
            "# train.budget = { gmacs = … } in the recipe.",
            f"# See what it takes:  {command('sweep', 'plan', sweep_path)}",
            f"name = {toml_value(name + '-sweep')}",
            f"recipe = {toml_value(name + '.toml')}",
            "",
            "[set]",
            'train.checkpoint.every = "off"',
            "",
            "[axes]",
            "seed = [1, 2, 3]",
            "",
            *[line for method in methods for line in ("[[axes.method]]", f"name = {toml_value(method)}", "")],
            "[tune]",
            "trials = 5",
            "",
            "[tune.set]",
            'evaluate = { every = "100%", at_start = false, train_examples = 0 }',
            "",
        ]
    )
    return Draft(recipe, sweep, tuple(methods))


def command(*words: str | Path) -> str:
    """Return a command of the program as it is typed in a shell.

    Args:
        *words: The arguments.
    """
    return shlex.join(["peftkit", *map(str, words)])


def default_name(path: str) -> str:
    """Return a name for the recipe of a user's data.

    Args:
        path: A file, a folder, or the id of a hub dataset.
    """
    stem = Path(path).name.split(".")[0]
    cleaned = "".join(character if character.isalnum() or character in "_-" else "_" for character in stem)
    return cleaned.strip("_-")[:40] or "task"


def _describe_others(others: Sequence[TaskCandidate]) -> list[str]:
    """Returns lines of comments on other ways to read the data."""
    lines = [f"#   {_comment(f'{describe_candidate(each)}: {each.match.reason}')}" for each in others[:MOST_OTHERS]]
    return ["# The data can also be read as:", *lines] if lines else []


def _objective_lines(options: Mapping[str, tuple[Any, str]]) -> list[str]:
    """Returns the lines of the objective's table; texts of several lines stay as they are, with the comment above."""
    lines = []
    for key, (value, note) in options.items():
        if isinstance(value, str) and "\n" in value and "'''" not in value:
            lines += [f"# {_comment(note)}", f"{key} = '''\n{value}'''"]
        else:
            lines.append(_option(key, value, {key: note}))
    return lines


def _comment(text: str) -> str:
    """Returns a text on one line, without characters that TOML does not allow in comments."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _option(key: str, value: Any, notes: Mapping[str, str]) -> str:
    note = f"  # {_comment(notes[key])}" if key in notes else ""
    return f"{key} = {toml_value(value)}{note}"
