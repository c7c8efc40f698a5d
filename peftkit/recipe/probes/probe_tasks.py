"""Makes the tasks and metrics of probes, and the recipes by which they are evaluated."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import InitErrorDetails

from peftkit.components import Metric, Task
from peftkit.errors import comma_separated, did_you_mean
from peftkit.example_tables import NORM_SUFFIX
from peftkit.recipe.evaluation_tasks import RESERVED_NAMES, EvaluationTask, FindTask, located_error, try_task
from peftkit.recipe.probes.probe_config import ProbeConfig

if TYPE_CHECKING:
    from peftkit.recipe.recipe import Recipe

DEFAULT_TASK = "plain_text"
"""The task of a probe that names none."""
LOSS = "loss"
"""A value that every evaluation has, whatever the metrics."""


@dataclass(frozen=True)
class RecipeProbe:
    """A probe of a recipe."""

    task: EvaluationTask
    metric: str
    """The value by which forgetting is measured."""
    higher_is_better: bool
    recipe: Recipe
    """The recipe with the task, the metrics and the lengths of the probe, by which it is tokenized and evaluated."""

    @property
    def name(self) -> str:
        """The name of the probe."""
        return self.task.name


def make_probe_task(config: ProbeConfig, find_task: FindTask) -> EvaluationTask:
    """Make the task of a probe.

    Args:
        config: The table of the probe.
        find_task: Finds an installed task.

    Raises:
        ValidationError: The options are invalid.
        PluginError: There is no task with the name.
        ValueError: There is no such split, as far as the options show.
    """
    options = task_options(config.task, config.path)
    task = cast("type[Task]", find_task(options["name"]).class_for(options)).model_validate_json(
        json.dumps(options), strict=True
    )
    task, split = task.as_evaluation_set(config.split, task)
    return EvaluationTask(config.name, task, split, config.examples, at_end_only=False)


def task_options(task: Mapping[str, Any], path: str | None = None) -> dict[str, Any]:
    """Return the options of a probe's task, with its name.

    Args:
        task: The table ``task`` of the probe.
        path: The ``path`` of the probe.
    """
    return {"name": DEFAULT_TASK, **task} | ({} if path is None else {"path": path})


def probe_tables(probes: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the index of each probe that has a task table, and that table.

    Args:
        probes: The value of ``probe``, before validation.
    """
    for index, each in enumerate(probes if isinstance(probes, list) else ()):
        table = each.get("task") if isinstance(each, dict) else None
        if isinstance(table, dict):
            yield index, task_options(table)


def find_probe_errors(
    probes: Sequence[ProbeConfig], taken: Collection[str], find_task: FindTask, metrics: Collection[type[Metric]]
) -> list[InitErrorDetails]:
    """Find what is wrong with the probes of a recipe.

    Args:
        probes: The tables of the probes.
        taken: The names of evaluation sets.
        find_task: Finds an installed task.
        metrics: The installed metrics.

    Returns:
        An error of pydantic for each problem, located in the recipe.
    """
    errors: list[InitErrorDetails] = []
    names = [name.lower() for name in taken]
    for index, config in enumerate(probes):
        path = ("probe", index)
        if config.name in RESERVED_NAMES:
            text = f"{config.name!r} is the name of another entry of evaluations"
            errors.append(located_error((*path, "name"), text))
        if config.name.lower() in names:  # files are named by them
            text = f"{config.name!r} is the name of another probe or evaluation set"
            errors.append(located_error((*path, "name"), text))
        names.append(config.name.lower())
        version, of_options = try_task(path, config, partial(make_probe_task, config, find_task))
        errors += of_options
        is_metric = config.metric not in (None, LOSS)
        if version is not None and is_metric and not find_metric(version.task, str(config.metric), metrics):
            known = _values(version.task, metrics)
            near = f"{did_you_mean(str(config.metric), known)}; its values are {comma_separated(known)}"
            text = f"no metric of {type(version.task).kind} tasks computes {config.metric!r}{near}"
            errors.append(located_error((*path, "metric"), text))
    return errors


def find_metric(task: Task, value: str, metrics: Iterable[type[Metric]]) -> tuple[Metric, ...]:
    """Find the metric that computes a value for a task.

    Args:
        task: The task.
        value: The value, such as ``bits_per_byte``, or ``accuracy_norm`` of a second ranking.
        metrics: The installed metrics.

    Returns:
        The metric, or nothing if there is none, as for the loss, which needs no metric.
    """
    wanted = value.removesuffix(NORM_SUFFIX)
    fitting = (each for each in metrics if type(task).kind in each.kinds and wanted in _value_names(each))
    return tuple(each() for each in fitting)[:1]  # type: ignore[call-arg]


def make_probe(
    recipe: Recipe, config: ProbeConfig, find_task: FindTask, metrics: Iterable[type[Metric]]
) -> RecipeProbe:
    """Make a probe of a recipe.

    Args:
        recipe: The recipe.
        config: The table of the probe.
        find_task: Finds an installed task.
        metrics: The installed metrics.
    """
    version = make_probe_task(config, find_task)
    value = config.metric or type(version.task).selection_metric
    chosen = find_metric(version.task, value, metrics)
    lengths = {
        key: length
        for key in ("max_source_length", "max_target_length")
        if (length := getattr(config, key)) is not None
    }
    tables = {
        "task": version.task,
        "objective": None,
        "metric": chosen,
        "train": recipe.train.model_copy(update=lengths),
        "evaluate": recipe.evaluate.model_copy(update={"set": (), "selection_metric": value}),
        "probe": (),
    }
    better = bool(chosen) and all(type(metric).higher_is_better for metric in chosen)
    return RecipeProbe(version, value, better, recipe.model_copy(update=tables))


def _value_names(metric: type[Metric]) -> tuple[str, ...]:
    return metric.values or (metric.model_fields["name"].default,)


def _values(task: Task, metrics: Iterable[type[Metric]]) -> list[str]:
    """Return the values that can be computed for a task, those of its own metrics first."""
    fitting = [each for each in metrics if type(task).kind in each.kinds]
    fitting.sort(key=lambda each: each.model_fields["name"].default not in type(task).metrics)
    return [*dict.fromkeys(name for each in fitting for name in _value_names(each)), LOSS]
