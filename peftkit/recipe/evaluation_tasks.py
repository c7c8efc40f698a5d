"""Makes the tasks of evaluation sets from the task of a recipe and the options in which they differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from peftkit.components import Task
from peftkit.errors import PluginError
from peftkit.recipe.probes.probe_config import ProbeConfig
from peftkit.recipe.tables.evaluate_config import EvaluationSet

RESERVED_NAMES = (
    *("train", "dev", "test", "step", "samples", "epoch", "tokens", "cost", "calibration", "curve", "format"),
    *("evaluation_seconds", "reused_evaluation_seconds", "probe_seconds", "generated_tokens", "base"),
)
"""Entries of evaluations, whose names an evaluation set or a probe cannot have."""
SPLITS = ("train", "dev", "test")
"""The splits of a task that does not choose one in its data."""
FindTask = Callable[[str], type[Task]]
"""Returns the installed task with a name, or raises a PluginError."""


@dataclass(frozen=True)
class EvaluationTask:
    """The task of an evaluation set."""

    name: str
    """The name of the set."""
    task: Task
    split: str
    """The split of the task that is the set."""
    examples: int | None
    """The number of rows evaluated along the curve; None for all."""
    at_end_only: bool


def make_evaluation_task(config: EvaluationSet, trained: Task, find_task: FindTask) -> EvaluationTask:
    """Make the task of an evaluation set.

    Args:
        config: The table of the set.
        trained: The task of the recipe.
        find_task: Finds an installed task.

    Raises:
        ValidationError: The options are invalid.
        PluginError: There is no task with the name.
    """
    changes = config.task | ({} if config.path is None else {"path": config.path})
    name = changes.get("name", trained.name)
    is_other = name != trained.name
    options = {"name": name, **changes} if is_other else trained.options_of_set(changes)
    task_class = cast("type[Task]", find_task(name).class_for(options))
    task = task_class.model_validate_json(json.dumps(options), strict=True)
    task, split = task.as_evaluation_set(config.split, trained)
    return EvaluationTask(config.name, task, split, config.examples, config.at_end_only)


def task_tables(sets: Any, trained: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the index of each evaluation set that has a task table, and that table with the options it builds on.

    Args:
        sets: The value of ``evaluate.set``, before validation.
        trained: The table of the recipe's task, before validation.
    """
    for index, each in enumerate(sets if isinstance(sets, list) else ()):
        table = each.get("task") if isinstance(each, dict) else None
        if isinstance(table, dict):
            same = isinstance(trained, dict) and table.get("name") in (None, trained.get("name"))
            yield index, {**trained, **table} if same else table


def find_set_errors(sets: Sequence[EvaluationSet], trained: Task, find_task: FindTask) -> list[InitErrorDetails]:
    """Find what is wrong with the evaluation sets of a recipe.

    Args:
        sets: The tables of the sets.
        trained: The task of the recipe.
        find_task: Finds an installed task.

    Returns:
        An error of pydantic for each problem, located in the recipe.
    """
    errors: list[InitErrorDetails] = []
    names: list[str] = []
    for index, config in enumerate(sets):
        path = ("evaluate", "set", index)
        if config.name in RESERVED_NAMES:
            errors.append(
                located_error((*path, "name"), f"{config.name!r} is the name of another entry of evaluations")
            )
        if config.name.lower() in names:  # files are named by them
            errors.append(located_error((*path, "name"), f"{config.name!r} is the name of another set"))
        names.append(config.name.lower())
        version, of_options = try_task(path, config, partial(make_evaluation_task, config, trained, find_task))
        errors += of_options
        kind, needed = type(version.task).kind if version else "", type(trained).kind
        if version is not None and kind != needed:
            text = (
                f"{version.task.name!r} is a {kind} task, and the model is trained on a {needed} task; use one of that "
                "kind, or measure it as a [[probe]]"
            )
            errors.append(located_error((*path, "task", "name"), text))
    return errors


def try_task(
    path: tuple[str | int, ...], config: EvaluationSet | ProbeConfig, make: Callable[[], EvaluationTask]
) -> tuple[EvaluationTask | None, list[InitErrorDetails]]:
    """Make the task of a set or a probe.

    Args:
        path: The path of its table.
        config: The table.
        make: Makes the task.

    Returns:
        The task, or None if its options are invalid; and what is wrong.
    """
    try:
        version = make()
    except ValidationError as error:
        return None, [_option_error(path, config, details) for details in error.errors(include_url=False)]
    except PluginError as error:
        return None, [located_error((*path, "task", "name"), str(error))]
    except ValueError as error:
        return None, [located_error((*path, "split"), str(error))]
    if type(version.task).as_evaluation_set is Task.as_evaluation_set and version.split not in SPLITS:
        text = f"{version.task.name!r} has the splits train, dev and test, not {version.split!r}"
        return version, [located_error((*path, "split"), text)]
    return version, []


def _option_error(
    path: tuple[str | int, ...], config: EvaluationSet | ProbeConfig, details: ErrorDetails
) -> InitErrorDetails:
    """Return an error of a task's options as one of the recipe."""
    loc = details["loc"]
    if loc[:1] == ("path",) and config.path is not None:
        return _relocated(details, (*path, *loc))
    if loc and loc[0] in config.task:
        return _relocated(details, (*path, "task", *loc))
    # Of all options together, or of one of the recipe's task.
    text = "missing; it is required" if details["type"] == "missing" else details["msg"].removeprefix("Value error, ")
    option, _, rest = text.partition(": ")
    if not loc and option == "path" and config.path is not None:
        return located_error((*path, "path"), rest)
    if not loc and option in config.task:
        return located_error((*path, "task", option), rest)
    where = ".".join(["task", *map(str, loc)]) if loc else ""
    return located_error(path, ": ".join(filter(None, [name_of_table(path, config.name), where, text])))


def name_of_table(path: tuple[str | int, ...], name: str) -> str:
    """Return how messages call an evaluation set or a probe: ``the set 'mismatched'``.

    Args:
        path: The path of its table.
        name: Its name.
    """
    return f"the {'probe' if path[0] == 'probe' else 'set'} {name!r}"


def _relocated(details: ErrorDetails, path: tuple[str | int, ...]) -> InitErrorDetails:
    """Return an error of a task as one of the recipe."""
    kind = details["type"]
    if kind not in get_args(core_schema.ErrorType):  # raised by a validator
        return located_error(path, details["msg"])
    return InitErrorDetails(type=kind, loc=path, input=details["input"], ctx=details.get("ctx", {}))


def located_error(path: tuple[str | int, ...], text: str) -> InitErrorDetails:
    """Return an error of pydantic for a key.

    Args:
        path: The path of the key in the recipe.
        text: What is wrong with it.
    """
    kind = PydanticCustomError("evaluation_set", "{text}", {"text": text})
    return InitErrorDetails(type=kind, loc=path, input=None)
