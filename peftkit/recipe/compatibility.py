"""Checks whether the tables of a recipe are compatible, before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from peftkit.components import Component, Objective, RunSpec
from peftkit.errors import PluginError, comma_separated, did_you_mean, summarize_error
from peftkit.plugins import Registry
from peftkit.recipe.config import LOSS, Recipe
from peftkit.recipe.deepspeed import sharding_conflicts
from peftkit.recipe.optimizers import optimizer_arguments
from peftkit.recipe.resolve import is_local_model, model_kind, text_config
from peftkit.recipe.tables import parse_interval
from peftkit.recipe.toml_lines import KeyPath
from peftkit.recipe.type_names import describe_type, format_value

Conflict = tuple[KeyPath, str]
"""The path of a key and what is wrong with it."""


def run_spec(recipe: Recipe, config: Mapping[str, Any]) -> RunSpec:
    """Collect what a component is checked against.

    Args:
        recipe: The recipe.
        config: The model's ``config.json``; empty if it is not on this machine.

    Returns:
        The properties of the run.
    """
    return RunSpec(
        model_kind=model_kind(config),
        task_kind=type(recipe.task).kind,
        gradient_checkpointing=recipe.train.gradient_checkpointing,
        mixed_precision=recipe.train.mixed_precision,
        config=text_config(config),
        steps_known=recipe.train.budget.has_known_steps,
        quantization=recipe.model.quantization or "",
        sharded=recipe.train.deepspeed.used or recipe.train.fsdp,
    )


def find_conflicts(recipe: Recipe, config: Mapping[str, Any]) -> list[Conflict]:
    """Find the keys of a recipe that are incompatible with each other or with the model.

    Args:
        recipe: The recipe.
        config: The model's ``config.json``; empty if it is not on this machine.

    Returns:
        The conflicts; several may have the same key.

    Raises:
        PluginError: A component raises while its incompatibilities are checked.
    """
    spec = run_spec(recipe, config)
    conflicts = [
        *_metric_conflicts(recipe, spec),
        *_repeated(recipe),
        *_precision_conflicts(recipe),
        *_streaming_conflicts(recipe),
        *_subset_conflicts(recipe),
        *_revision_conflicts(recipe),
        *_head_conflicts(recipe, spec),
        *_optimizer_conflicts(recipe),
        *sharding_conflicts(recipe),
    ]
    components: list[tuple[KeyPath, Component]] = [(("task",), recipe.task), (("method",), recipe.method)]
    components += [(("callback", index), callback) for index, callback in enumerate(recipe.callback)]
    if recipe.objective is not None:
        components.append((("objective",), recipe.objective))
    for key, component in components:
        conflicts += [
            ((*key, "name"), f"{component.name!r} is incompatible with this recipe: {reason}")
            for reason in _incompatibilities(component, spec)
        ]
    conflicts += _objective_conflicts(recipe, spec)
    return conflicts


def unmeasured_budgets(recipe: Recipe, registry: Registry) -> list[Conflict]:
    """Find budget limits that no installed meter measures.

    Args:
        recipe: The recipe.
        registry: The installed components.

    Returns:
        A conflict for each limit.
    """
    meters: list[Any] = [entry.component for entry in registry.all("meter").values()]
    if recipe.train.budget.joules is None or any("joules" in meter.budgets for meter in meters):
        return []
    return [(("train", "budget", "joules"), "no installed meter measures joules; install peftkit-energy")]


def _incompatibilities(component: Component, spec: RunSpec) -> list[str]:
    try:
        return component.incompatible_with(spec)
    except Exception as error:  # of a plugin: reported like any other
        raise PluginError(
            f"{component.name!r} failed while its incompatibilities were checked: {summarize_error(error)}"
        ) from error


def _objective_conflicts(recipe: Recipe, spec: RunSpec) -> Iterator[Conflict]:
    """Find out whether there is exactly one objective for the task's kind and the model."""
    task, kind = recipe.task, type(recipe.task).kind
    if recipe.objective is not None and type(recipe.objective).task_kind != kind:
        needed = type(recipe.objective).task_kind
        yield ("objective", "name"), f"{recipe.objective.name!r} is for {needed} tasks, and {task.name!r} is {kind}"
        return
    if not recipe.objectives:
        text = f"no installed objective is for tasks of the kind {kind!r} of {task.name!r}; install a plugin with one"
        yield ("task", "name"), text
        return
    fitting = recipe.objectives_for(spec.model_kind)
    if not fitting:
        families = comma_separated(sorted({family for each in recipe.objectives for family in each.families}))
        key, text = ("task", "name"), f"{task.name!r} is a {kind} task, which has no objective for a model of kind"
        if recipe.objective is not None:
            key, text = ("objective", "name"), f"{recipe.objective.name!r} is not for models of kind"
        yield key, f"{text} {spec.model_kind!r}; use one of kind {families}"
    elif len(fitting) > 1 and spec.model_kind is not None:
        names = comma_separated([each.model_fields["name"].default for each in fitting])
        yield ("objective",), f"several objectives are for {kind} tasks and this model; choose one by name: {names}"


def _metric_conflicts(recipe: Recipe, spec: RunSpec) -> list[Conflict]:
    task, kind = recipe.task, type(recipe.task).kind
    conflicts: list[Conflict] = []
    for index, metric in enumerate(recipe.metric):
        path = ("metric", index, "name")
        if kind not in type(metric).kinds:
            kinds = comma_separated(type(metric).kinds)
            conflicts.append((path, f"{metric.name!r} scores {kinds}, and {task.name!r} is {kind}"))
        fitting = recipe.objectives_for(spec.model_kind) if spec.model_kind is not None else ()
        if metric.input == "teacher_forced" and any(each.teacher_force is Objective.teacher_force for each in fitting):
            text = f"{metric.name!r} scores the tokens of targets, which the objective for this model does not predict"
            conflicts.append((path, text))
    metrics = [metric for metric in recipe.metric if metric.input == "prediction"]
    values = [*(value for metric in metrics for value in metric.value_names), LOSS]
    if recipe.selection_metric in values:
        return conflicts
    if recipe.evaluate.selection_metric is None:
        text = f"{task.name!r} selects by {recipe.selection_metric!r}, which none of these metrics computes; add it"
        return [*conflicts, (("metric",), text)]
    near = did_you_mean(recipe.selection_metric, values)
    text = f"no metric here computes {recipe.selection_metric!r}{near}; available: {comma_separated(values)}"
    return [*conflicts, (("evaluate", "selection_metric"), text)]


def _repeated(recipe: Recipe) -> Iterator[Conflict]:
    """Find the metrics and callbacks that are listed twice."""
    lists: dict[str, Sequence[Component]] = {"metric": recipe.metric, "callback": recipe.callback}
    for kind, components in lists.items():
        names = [component.name for component in components]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield (kind, index, "name"), f"{name!r} is listed twice; keep one"


def _streaming_conflicts(recipe: Recipe) -> list[Conflict]:
    if not recipe.task.is_streaming:
        return []
    text = f"the training rows of {recipe.task.name!r} are streamed"
    conflicts: list[Conflict] = []
    if recipe.train.budget.epochs is not None:
        remedy = "limit steps, samples, tokens, gmacs or seconds"
        conflicts.append((("train", "budget", "epochs"), f"{text}, so the length of an epoch is unknown; {remedy}"))
    intervals: list[Conflict] = [(("evaluate", "every"), recipe.evaluate.every)]
    intervals.append((("train", "checkpoint", "every"), recipe.train.checkpoint.every))
    for path, every in intervals:
        if every != "off" and parse_interval(every)[1] == "epochs":
            remedy = "use steps or a share of the budget"
            conflicts.append((path, f"{text}, so the length of an epoch is unknown; {remedy}"))
    if recipe.train.workers:
        conflicts.append((("train", "workers"), f"{text} in order by one process; set it to 0"))
    if recipe.run.resample_train is not None:
        conflicts.append((("run", "resample_train"), f"{text} and cannot be resampled; leave it out"))
    return conflicts


def _head_conflicts(recipe: Recipe, spec: RunSpec) -> list[Conflict]:
    if spec.model_kind not in ("decoder", "encoder-decoder"):
        return []
    text = f"only encoders have a classification head, and the model is of kind {spec.model_kind!r}; leave it out"
    conflicts: list[Conflict] = []
    if recipe.train.head_learning_rate is not None:
        conflicts.append((("train", "head_learning_rate"), text))
    if recipe.model.keep_head:
        conflicts.append((("model", "keep_head"), text))
    return conflicts


def _subset_conflicts(recipe: Recipe) -> list[Conflict]:
    if recipe.run.subset_fraction is None or recipe.run.resample_train == "subset":
        return []
    text = 'is used only with run.resample_train = "subset"; set that, or leave it out'
    return [(("run", "subset_fraction"), text)]


def _revision_conflicts(recipe: Recipe) -> list[Conflict]:
    if recipe.model.revision is None or not is_local_model(recipe.model.name):
        return []
    return [(("model", "revision"), f"{recipe.model.name!r} is not on the Hub and has no revisions; leave it out")]


def _precision_conflicts(recipe: Recipe) -> list[Conflict]:
    if recipe.train.mixed_precision == "fp16" and recipe.model.dtype != "float32":
        text = 'fp16 autocast needs float32 weights for gradient scaling; set model.dtype = "float32"'
        return [(("train", "mixed_precision"), text)]
    if recipe.model.dtype == "float64" and (recipe.train.mixed_precision != "no" or recipe.model.quantization):
        key = ("train", "mixed_precision") if recipe.train.mixed_precision != "no" else ("model", "quantization")
        return [(key, 'is incompatible with model.dtype = "float64"; leave it out')]
    return []


def _optimizer_conflicts(recipe: Recipe) -> list[Conflict]:
    """Find the options that the optimizer does not take, and those that the run sets itself."""
    train = recipe.train
    arguments = optimizer_arguments(train.optimizer) if train.optimizer_options or train.weight_decay else {}
    if not arguments:
        return []
    set_by_run = {"params": "is set by the run; leave it out", "lr": "is set by train.learning_rate; leave it out"}
    if train.weight_decay:
        set_by_run["weight_decay"] = "is set by train.weight_decay; leave it out"
    conflicts: list[Conflict] = []
    if train.weight_decay and "weight_decay" not in arguments:
        conflicts.append((("train", "weight_decay"), f"{train.optimizer} has no weight decay; set it to 0"))
    for name, value in train.optimizer_options.items():
        problem = set_by_run.get(name, "")
        if name not in arguments:
            allowed = [argument for argument in arguments if argument not in set_by_run]
            takes = f"{train.optimizer} takes {comma_separated(allowed)}"
            problem = f"unknown option; {takes}{did_you_mean(name, allowed)}"
        elif not problem and not _is_valid(value, arguments[name]):
            problem = f"must be {describe_type(arguments[name])}, not {format_value(value)}"
        elif train.optimizer.lower() == "adafactor" and name in ("relative_step", "warmup_init") and value:
            problem = "must be false: the learning rate is train.learning_rate"
        if problem:
            conflicts.append((("train", "optimizer_options", name), problem))
    return conflicts


def _is_valid(value: Any, annotation: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True
