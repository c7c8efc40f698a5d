"""Tune the learning rate of new heads once for each model and task, shared by all methods of a comparison.

A rate that suits the vectors of one method ruins a dense layer, so training the head at the method's rate would
confound every comparison of methods on encoders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftkit.components import ModelKind, Range
from peftkit.errors import RecipeError
from peftkit.plugins import Registry
from peftkit.sweep.grid import Grid, Layer, Study, final_seeds, make_recipe, recipe_hash, relocate_problems, unflatten
from peftkit.sweep.sweep_file import TuneConfig
from peftkit.sweep.tuning.tuning_stages import HEAD_LEARNING_RATE, TuningTarget, resolve_model_kind


def find_heads(grid: Grid, registry: Registry, overrides: Sequence[str] = ()) -> dict[str, TuningTarget]:
    """Find the head to tune before each study.

    Studies whose model has no new head, or whose recipe sets a learning rate for it, are left out.

    Args:
        grid: The sweep.
        registry: The installed components.
        overrides: The overrides that the grid was expanded with.

    Returns:
        The tuning target by the label of the study.

    Raises:
        RecipeError: The reference method is incompatible with a model and task.
        RunError: The config of a hub model cannot be loaded.
    """
    tune = grid.config.tune
    if tune is None:
        return {}
    kinds: dict[tuple[str, str | None], ModelKind | None] = {}
    heads: dict[str, TuningTarget] = {}
    targets = {}
    for study in grid.studies:
        recipe = study.any_recipe
        if recipe.train.head_learning_rate is not None:
            continue
        model = recipe.model.name, recipe.model.revision
        if model not in kinds:
            kinds[model] = resolve_model_kind(recipe)
        if kinds[model] == "encoder":
            layers = _head_layers(study, tune)
            key = repr((layers, final_seeds(grid.config, study)))
            if key not in heads:
                heads[key] = _head_target(grid, study, tune, layers, registry, overrides)
            targets[study.label] = heads[key]
    return targets


def head_layer(head: Mapping[str, Any] | None) -> Layer:
    """The part of a recipe that a tuned head sets, from its record in ``tuning.json``."""
    return unflatten({HEAD_LEARNING_RATE: head["learning_rate"]}) if head else {}


def _head_layers(study: Study, tune: TuneConfig) -> tuple[Layer, ...]:
    """Return the layers of a head's recipe: the axes that set the model or the task, and the reference method.

    All studies of the same model and task therefore share the head.
    """
    model_and_task = tuple(
        {key: inner for key, inner in layer.items() if key != "method"}
        for layer in study.layers
        if layer.keys() & {"model", "task"}
    )
    return (*model_and_task, {"method": {"name": tune.head.method}})


def _head_target(
    grid: Grid,
    study: Study,
    tune: TuneConfig,
    layers: tuple[Layer, ...],
    registry: Registry,
    overrides: Sequence[str],
) -> TuningTarget:
    """Build the tuning target of a head."""
    recipe = study.any_recipe
    label = f"head of {recipe.model.name} · {recipe.task.name}"
    try:
        recipe = make_recipe(grid.path, grid.config, registry, layers, overrides)
        trial = make_recipe(grid.path, grid.config, registry, (*layers, tune.set), overrides)
    except RecipeError as error:
        raise RecipeError(relocate_problems(grid.path, label, error)) from error
    search = {HEAD_LEARNING_RATE: Range(tune.head.low, tune.head.high, log=True)}
    seeds = final_seeds(grid.config, study)
    return TuningTarget(label, layers, recipe, search, tune.head.trials, f"head-{recipe_hash(trial)}", seeds)
