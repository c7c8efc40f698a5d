"""Checks whether the tables of a recipe are compatible, before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from peftkit.components import Component, Metric, ModelKind, Objective, RunSpec
from peftkit.errors import PluginError, comma_separated, did_you_mean, summarize_error
from peftkit.plugins import Registry
from peftkit.recipe.component_validation import LISTED
from peftkit.recipe.conflicts.metric_conflicts import companion_conflicts
from peftkit.recipe.conflicts.optimizer_conflicts import optimizer_conflicts
from peftkit.recipe.conflicts.unused_options import unused_options
from peftkit.recipe.deepspeed import sharding_conflicts
from peftkit.recipe.model_names import is_local_model, model_kind, text_config
from peftkit.recipe.partial_recipe import known, listed
from peftkit.recipe.probes.probe_conflicts import probe_conflicts
from peftkit.recipe.recipe import LOSS, Recipe
from peftkit.recipe.tables.intervals import parse_interval
from peftkit.recipe.tables.train_config import TrainConfig
from peftkit.recipe.toml_lines import KeyPath

Conflict = tuple[KeyPath, str]
"""The path of a key and what is wrong with it."""
SETTINGS: Mapping[str, Callable[[Recipe], Any]] = {
    "task_kind": lambda recipe: type(recipe.task).kind,
    "gradient_checkpointing": lambda recipe: recipe.train.gradient_checkpointing,
    "mixed_precision": lambda recipe: recipe.train.mixed_precision,
    "steps_known": lambda recipe: recipe.train.budget.has_known_steps,
    "quantization": lambda recipe: recipe.model.quantization or "",
    "sharded": lambda recipe: recipe.train.deepspeed.used or recipe.train.fsdp,
    "num_return_sequences": lambda recipe: recipe.evaluate.num_return_sequences,
    "has_head": lambda recipe: not any(each.encodes_texts for each in recipe.objectives),
}
"""How the settings that components are checked against are read."""
POSSIBLE: Mapping[str, Sequence[Any]] = {
    "task_kind": ("classification", "multiple_choice", "generation", ""),
    "gradient_checkpointing": (False, True),
    "mixed_precision": ("no", "bf16", "fp16"),
    "steps_known": (False, True),
    "quantization": ("", "4bit", "8bit"),
    "sharded": (False, True),
    "num_return_sequences": (1, 1 << 20),
    "has_head": (True, False),
}
"""The values that they may have where a key is invalid."""


def run_spec(recipe: Recipe, config: Mapping[str, Any]) -> RunSpec:
    """Collect what a component is checked against.

    Args:
        recipe: The recipe.
        config: The model's ``config.json``; empty if it is not on this machine.

    Returns:
        The properties of the run.
    """
    [spec] = _possible_specs(recipe, config)
    return spec


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
    kind, specs = _trained_kind(recipe, config), _possible_specs(recipe, config)
    checks: list[Iterator[Conflict]] = [
        _metric_conflicts(recipe, kind),
        _selection_conflicts(recipe),
        _repeated(recipe),
        companion_conflicts(recipe),
        _precision_conflicts(recipe),
        _compile_conflicts(recipe),
        _streaming_conflicts(recipe),
        _subset_conflicts(recipe),
        _token_conflicts(recipe),
        _offloading_conflicts(recipe),
        _revision_conflicts(recipe),
        _head_conflicts(recipe, kind),
        optimizer_conflicts(recipe),
        sharding_conflicts(recipe),
        *(_component_conflicts(key, component, specs) for key, component in _components(recipe)),
        _objective_conflicts(recipe, kind),
        probe_conflicts(recipe, kind),
        unused_options(recipe, kind),
    ]
    conflicts: list[Conflict] = []
    for check in checks:
        with known():
            conflicts.extend(check)
    return conflicts


def _components(recipe: Recipe) -> Iterator[tuple[KeyPath, Component]]:
    """Yield the valid components whose incompatibilities are checked, with the paths of their tables."""
    with known():
        yield ("task",), recipe.task
    with known():
        yield ("method",), recipe.method
    for key in LISTED:
        for index, component in listed(recipe, key):
            yield (key, index), component
    with known():
        if recipe.objective is not None:
            yield ("objective",), recipe.objective


def _component_conflicts(key: KeyPath, component: Component, specs: Sequence[RunSpec]) -> Iterator[Conflict]:
    """Yield the reasons that hold whatever the values of invalid keys are meant to be."""
    first, *others = [_incompatibilities(component, spec) for spec in specs]
    for reason in first:
        if all(reason in reasons for reasons in others):
            yield (*key, "name"), f"{component.name!r} is incompatible with this recipe: {reason}"


def _possible_specs(recipe: Recipe, config: Mapping[str, Any]) -> list[RunSpec]:
    """Return what components are checked against; of a recipe with invalid keys, one for all of their values."""
    values: dict[str, Sequence[Any]] = dict(POSSIBLE)
    for name, read in SETTINGS.items():
        with known():
            values[name] = [read(recipe)]
    kind, values["max_text_length"] = _trained_kind(recipe, config), [None]
    with known():
        lengths = recipe.train.max_source_length, recipe.train.max_target_length
        longest = {"encoder": lengths[0], "encoder-decoder": max(lengths), "decoder": sum(lengths)}
        values["max_text_length"] = [longest.get(kind or "")]
    return [
        RunSpec(model_kind=kind, config=text_config(config), **dict(zip(values, each, strict=True)))
        for each in product(*values.values())
    ]


def _trained_kind(recipe: Recipe, config: Mapping[str, Any]) -> ModelKind | None:
    """Return the kind of what is loaded of a model; of the whole model if the task or the objective is invalid."""
    with known():
        return recipe.trained_kind(config)
    return model_kind(config)


def unmeasured_budgets(recipe: Recipe, registry: Registry) -> list[Conflict]:
    """Find budget limits that no installed meter measures.

    Args:
        recipe: The recipe.
        registry: The installed components.

    Returns:
        A conflict for each limit.
    """
    meters: list[Any] = [entry.component for entry in registry.all("meter").values()]
    limited = False
    with known():
        limited = recipe.train.budget.joules is not None
    if not limited or any("joules" in meter.budgets for meter in meters):
        return []
    return [(("train", "budget", "joules"), "no installed meter measures joules; install peftkit-energy")]


def _incompatibilities(component: Component, spec: RunSpec) -> list[str]:
    try:
        return component.incompatible_with(spec)
    except Exception as error:  # of a plugin: reported like any other
        raise PluginError(
            f"{component.name!r} failed while its incompatibilities were checked: {summarize_error(error)}"
        ) from error


def _objective_conflicts(recipe: Recipe, model: ModelKind | None) -> Iterator[Conflict]:
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
    fitting = recipe.objectives_for(model)
    if not fitting:
        families = comma_separated(sorted({family for each in recipe.objectives for family in each.families}))
        key, text = ("task", "name"), f"{task.name!r} is a {kind} task, which has no objective for a model of kind"
        if recipe.objective is not None:
            key, text = ("objective", "name"), f"{recipe.objective.name!r} is not for models of kind"
        yield key, f"{text} {model!r}; use one of kind {families}"
    elif len(fitting) > 1 and model is not None:
        names = comma_separated([each.model_fields["name"].default for each in fitting])
        yield ("objective",), f"several objectives are for {kind} tasks and this model; choose one by name: {names}"


def _metric_conflicts(recipe: Recipe, model: ModelKind | None) -> Iterator[Conflict]:
    task, kind = recipe.task, type(recipe.task).kind
    for index, metric in listed(recipe, "metric"):
        if not isinstance(metric, Metric):
            continue
        path = ("metric", index, "name")
        if kind not in type(metric).kinds:
            kinds = comma_separated(type(metric).kinds)
            yield path, f"{metric.name!r} scores {kinds}, and {task.name!r} is {kind}"
        with known():
            fitting = recipe.objectives_for(model) if model is not None else ()
            if metric.input == "teacher_forced" and any(o.teacher_force is Objective.teacher_force for o in fitting):
                text = "scores the tokens of targets, which the objective for this model does not predict"
                yield path, f"{metric.name!r} {text}"
            elif lacking := [o for o in fitting if not _has_scored_value(o, metric.input)]:
                others = {
                    family for o in recipe.objectives if _has_scored_value(o, metric.input) for family in o.families
                }
                models = f"; it needs a model of kind {comma_separated(sorted(others))}" if others else ""
                names = comma_separated(sorted(repr(o.model_fields["name"].default) for o in lacking))
                yield path, f"{metric.name!r} scores {metric.input}, which predictions of {names} do not have{models}"


def _has_scored_value(objective: type[Objective], value: str) -> bool:
    """Return whether predictions of an objective may have what a metric scores."""
    declared = objective.scored_values
    return value in ("prediction", "teacher_forced") or declared is None or value in declared


def _selection_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    metrics = [metric for metric in recipe.metric if metric.input != "teacher_forced"]
    values = [*(value for metric in metrics for value in metric.value_names), LOSS]
    selection = recipe.selection_metric
    if selection in values or selection.partition(".")[0] in values[:-1]:  # a part, as mse.valence
        return
    if recipe.evaluate.selection_metric is None:
        text = f"{recipe.task.name!r} selects by {selection!r}, which none of these metrics computes; add it"
        yield ("metric",), text
        return
    near = did_you_mean(selection, values)
    text = f"no metric here computes {selection!r}{near}; available: {comma_separated(values)}"
    yield ("evaluate", "selection_metric"), text


def _repeated(recipe: Recipe) -> Iterator[Conflict]:
    """Find the metrics and callbacks that are listed twice."""
    for kind in LISTED:
        names: list[str] = []
        for index, component in listed(recipe, kind):
            if component.name in names:
                yield (kind, index, "name"), f"{component.name!r} is listed twice; keep one"
            names.append(component.name)


def _streaming_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    if not recipe.task.is_streaming:
        return
    text = f"the training rows of {recipe.task.name!r} are streamed"
    with known():
        if recipe.train.budget.epochs is not None:
            remedy = "limit steps, samples, tokens, gmacs or seconds"
            yield ("train", "budget", "epochs"), f"{text}, so the length of an epoch is unknown; {remedy}"
    intervals: Mapping[KeyPath, Callable[[], str]] = {
        ("evaluate", "every"): lambda: recipe.evaluate.every,
        ("train", "checkpoint", "every"): lambda: recipe.train.checkpoint.every,
    }
    for path, read in intervals.items():
        with known():
            if (every := read()) != "off" and parse_interval(every)[1] == "epochs":
                remedy = "use steps or a share of the budget"
                yield path, f"{text}, so the length of an epoch is unknown; {remedy}"
    with known():
        if recipe.train.workers:
            yield ("train", "workers"), f"{text} in order by one process; set it to 0"
    with known():
        if recipe.run.resample_train is not None:
            yield ("run", "resample_train"), f"{text} and cannot be resampled; leave it out"


def _head_conflicts(recipe: Recipe, model: ModelKind | None) -> Iterator[Conflict]:
    if model not in ("decoder", "encoder-decoder"):
        return
    text = f"only encoders have a classification head, and the model is of kind {model!r}; leave it out"
    with known():
        if recipe.train.head_learning_rate is not None:
            yield ("train", "head_learning_rate"), text
    with known():
        if recipe.model.keep_head:
            yield ("model", "keep_head"), text


def _subset_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    if recipe.run.subset_fraction is not None and recipe.run.resample_train != "subset":
        text = 'is used only with run.resample_train = "subset"; set that, or leave it out'
        yield ("run", "subset_fraction"), text


def _token_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """Find what cannot be combined with steps of a number of tokens."""
    if recipe.train.tokens_per_batch is None:
        return
    default = TrainConfig.model_fields["batch_size"].default
    with known():
        if recipe.train.batch_size != default:
            text = (
                "has no effect with train.tokens_per_batch, which gradient_accumulation_steps divides into microbatches"
            )
            yield ("train", "batch_size"), f"{text}; leave it out, or set it to {default}"
    with known():
        if recipe.task.is_streaming:
            text = f"the training rows of {recipe.task.name!r} are streamed, so their lengths are unknown"
            yield ("train", "tokens_per_batch"), f"{text}; use train.batch_size"
    with known():
        if recipe.train.deepspeed.used:
            yield ("train", "tokens_per_batch"), "DeepSpeed needs a number of rows; use train.batch_size"


def _offloading_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    with known():
        if recipe.train.activation_offloading and recipe.train.compile:
            yield (
                ("train", "activation_offloading"),
                "compiled layers decide what they save; use it without train.compile",
            )


def _revision_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    if recipe.model.revision is not None and is_local_model(recipe.model.name):
        yield ("model", "revision"), f"{recipe.model.name!r} is not on the Hub and has no revisions; leave it out"


def _precision_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    dtype = recipe.model.dtype
    text = 'is incompatible with model.dtype = "float64"; leave it out'
    with known():
        if recipe.train.mixed_precision == "fp16" and dtype != "float32":
            fp16 = 'fp16 autocast needs float32 weights for gradient scaling; set model.dtype = "float32"'
            yield ("train", "mixed_precision"), fp16
        elif recipe.train.mixed_precision != "no" and dtype == "float64":
            yield ("train", "mixed_precision"), text
    with known():
        if recipe.model.quantization and dtype == "float64":
            yield ("model", "quantization"), text


def _compile_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    if not recipe.train.compile:
        return
    with known():
        if recipe.train.deepspeed.used or recipe.train.fsdp:
            yield (
                ("train", "compile"),
                "is incompatible with sharding, which replaces the layers' weights; leave it out",
            )
    with known():
        if recipe.model.quantization:
            yield ("train", "compile"), "is incompatible with model.quantization; leave it out"
    with known():
        if recipe.train.gradient_checkpointing:
            text = "has no effect with gradient_checkpointing, whose layers torch does not compile; leave it out"
            yield ("train", "compile"), text
