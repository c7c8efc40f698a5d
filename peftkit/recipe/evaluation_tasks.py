"""Makes the tasks of evaluation sets from the task of a recipe and the options in which they differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from peftkit.components import Task
from peftkit.errors import PluginError
from peftkit.recipe.tables import EvaluationSet

RESERVED_NAMES = (
    *("train", "dev", "test", "step", "samples", "epoch", "tokens", "cost", "calibration", "curve", "format"),
    *("evaluation_seconds", "reused_evaluation_seconds", "generated_tokens"),
)
"""Entries of evaluations, whose names an evaluation set cannot have."""
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
            errors.append(_error((*path, "name"), f"{config.name!r} is the name of another entry of evaluations"))
        if config.name.lower() in names:  # files are named by them
            errors.append(_error((*path, "name"), f"{config.name!r} is the name of another set"))
        names.append(config.name.lower())
        errors += _task_errors(path, config, trained, find_task)
    return errors


def _task_errors(
    path: tuple[str | int, ...], config: EvaluationSet, trained: Task, find_task: FindTask
) -> Iterator[InitErrorDetails]:
    """Yield what is wrong with the task of a set."""
    try:
        version = make_evaluation_task(config, trained, find_task)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            loc = details["loc"]
            if loc[:1] == ("path",) and config.path is not None:
                yield _relocated(details, (*path, *loc))
            elif loc and loc[0] in config.task:
                yield _relocated(details, (*path, "task", *loc))
            else:  # of all options together, or of one of the recipe's task
                required = details["type"] == "missing"
                text = "missing; it is required" if required else details["msg"].removeprefix("Value error, ")
                yield _error(path, ": ".join([*map(str, loc), text]))
        return
    except PluginError as error:
        yield _error((*path, "task", "name"), str(error))
        return
    except ValueError as error:
        yield _error((*path, "split"), str(error))
        return
    kind, needed = type(version.task).kind, type(trained).kind
    if kind != needed:
        text = (
            f"{version.task.name!r} is a {kind} task, and the model is trained on a {needed} task; use one of that kind"
        )
        yield _error((*path, "task", "name"), text)
    if type(version.task).as_evaluation_set is Task.as_evaluation_set and version.split not in SPLITS:
        yield _error(
            (*path, "split"), f"{version.task.name!r} has the splits train, dev and test, not {version.split!r}"
        )


def _relocated(details: ErrorDetails, path: tuple[str | int, ...]) -> InitErrorDetails:
    """Return an error of a task as one of the recipe."""
    kind = details["type"]
    if kind not in get_args(core_schema.ErrorType):  # raised by a validator
        return _error(path, details["msg"])
    return InitErrorDetails(type=kind, loc=path, input=details["input"], ctx=details.get("ctx", {}))


def _error(path: tuple[str | int, ...], text: str) -> InitErrorDetails:
    kind = PydanticCustomError("evaluation_set", "{text}", {"text": text})
    return InitErrorDetails(type=kind, loc=path, input=None)
