"""What a recipe asks for that cannot work together, found before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftkit.components import Component, Situation
from peftkit.errors import PluginError, did_you_mean, listed, one_line
from peftkit.plugins import Registry
from peftkit.recipe.names import model_kind
from peftkit.recipe.positions import KeyPath
from peftkit.recipe.sharding import sharding_findings
from peftkit.recipe.tables import LOSS, Recipe, interval

Finding = tuple[KeyPath, str]
"""The path of a key and what is wrong with it."""


def situation(recipe: Recipe, config: Mapping[str, Any]) -> Situation:
    """What the recipe asks of its components, with the model's config as far as it is known."""
    return Situation(
        model_kind=model_kind(config),
        task_kind=type(recipe.task).kind,
        gradient_checkpointing=recipe.train.gradient_checkpointing,
        mixed_precision=recipe.train.mixed_precision,
        config=config,
        steps_known=recipe.train.budget.tells_steps,
        quantization=recipe.model.quantization or "",
        sharded=recipe.train.deepspeed.used or recipe.train.fsdp,
    )


def findings(recipe: Recipe, config: Mapping[str, Any]) -> list[Finding]:
    """Everything about the recipe that would not do what it says.

    Raises:
        PluginError: a component fails when it is asked what it refuses.
    """
    asked = situation(recipe, config)
    found = [
        *_metrics(recipe, asked),
        *_precision(recipe),
        *_stream(recipe),
        *_sample(recipe),
        *_head(recipe, asked),
        *sharding_findings(recipe),
    ]
    components: list[tuple[str, Component]] = [("task", recipe.task), ("method", recipe.method)]
    for key, component in components:
        found += [((key, "name"), f"{component.name!r} cannot be used so: {t}") for t in _refusals(component, asked)]
    if asked.model_kind == "encoder" and asked.task_kind == "generation":
        text = f"{recipe.task.name!r} generates text, which an encoder cannot; use an encoder-decoder or a decoder"
        found.append((("task", "name"), text))
    return found


def unmeasured(recipe: Recipe, registry: Registry) -> list[Finding]:
    """Limits of the budget that no installed meter reads."""
    meters: list[Any] = [entry.component for entry in registry.of("meter").values()]
    if recipe.train.budget.joules is None or any("joules" in meter.budgets for meter in meters):
        return []
    return [(("train", "budget", "joules"), "no installed meter reads joules; install peftkit-energy")]


def _refusals(component: Component, asked: Situation) -> list[str]:
    try:
        return component.refuses(asked)
    except Exception as error:  # a plugin's code: it must not end in a traceback
        raise PluginError(f"{component.name!r} fails when asked what it refuses: {one_line(error)}") from error


def _metrics(recipe: Recipe, asked: Situation) -> list[Finding]:
    task, kind = recipe.task, type(recipe.task).kind
    found: list[Finding] = []
    for index, metric in enumerate(recipe.metric):
        path = ("metric", index, "name")
        if kind not in type(metric).kinds:
            found.append((path, f"{metric.name!r} scores {listed(type(metric).kinds)}, and {task.name!r} is {kind}"))
        if metric.name in [m.name for m in recipe.metric[:index]]:
            found.append((path, f"{metric.name!r} is named twice; keep one"))
        if metric.reads == "teacher_forced" and asked.model_kind == "encoder":
            found.append((path, f"{metric.name!r} scores tokens that a decoder says, and the model is an encoder"))
    values = [value for metric in recipe.metric if metric.reads == "prediction" for value in metric.value_names]
    if recipe.selects not in [*values, LOSS]:
        if recipe.evaluate.selects is None:
            text = f"{task.name!r} selects the checkpoint by {recipe.selects!r}, which no metric here gives; add it"
            found.append((("metric",), text))
        else:
            near = did_you_mean(recipe.selects, [*values, LOSS])
            text = f"no metric here gives {recipe.selects!r}{near}; there are {listed([*values, LOSS])}"
            found.append((("evaluate", "selects"), text))
    return found


def _stream(recipe: Recipe) -> list[Finding]:
    if not recipe.task.streams:
        return []
    text = f"the training rows of {recipe.task.name!r} are streamed"
    found: list[Finding] = []
    if recipe.train.budget.epochs is not None:
        remedy = "limit steps, samples, tokens, gmacs or seconds"
        found.append((("train", "budget", "epochs"), f"{text}, and how many make an epoch is not known; {remedy}"))
    places: list[tuple[KeyPath, str]] = [(("evaluate", "every"), recipe.evaluate.every)]
    places.append((("train", "checkpoint", "every"), recipe.train.checkpoint.every))
    for path, every in places:
        if every != "off" and interval(every)[1] == "epochs":
            remedy = "count steps, or shares of the budget"
            found.append((path, f"{text}, and how many make an epoch is not known; {remedy}"))
    if recipe.train.workers:
        found.append((("train", "workers"), f"{text}, in order and so by one process; set it to 0"))
    if recipe.run.resample_train is not None:
        found.append((("run", "resample_train"), f"{text}, and none can be drawn anew; leave it out"))
    return found


def _head(recipe: Recipe, asked: Situation) -> list[Finding]:
    keys: list[tuple[KeyPath, bool]] = [
        (("train", "head_learning_rate"), recipe.train.head_learning_rate is not None),
        (("model", "keep_head"), recipe.model.keep_head),
    ]
    text = f"only an encoder has a classification head, and this model is of kind {asked.model_kind!r}; leave it out"
    return [(path, text) for path, used in keys if used and asked.model_kind in ("decoder", "encoder-decoder")]


def _sample(recipe: Recipe) -> list[Finding]:
    if recipe.run.subset_fraction is None or recipe.run.resample_train == "subset":
        return []
    text = 'is the share that a subset draws; set run.resample_train = "subset", or leave it out'
    return [(("run", "subset_fraction"), text)]


def _precision(recipe: Recipe) -> list[Finding]:
    if recipe.train.mixed_precision == "fp16" and recipe.model.dtype != "float32":
        text = 'fp16 autocast needs float32 weights to scale their gradients; set model.dtype = "float32"'
        return [(("train", "mixed_precision"), text)]
    if recipe.model.dtype == "float64" and (recipe.train.mixed_precision != "no" or recipe.model.quantization):
        key = ("train", "mixed_precision") if recipe.train.mixed_precision != "no" else ("model", "quantization")
        return [(key, 'leaves nothing of model.dtype = "float64"; leave it out')]
    return []
