"""The learning rate of new heads: tuned once for each model and task, the same for all methods of a comparison.

A rate that suits the vectors of one method ruins a dense layer, so that a head that learns at the method's own rate
would confound every comparison of methods on encoders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftkit.components import Between, ModelKind
from peftkit.errors import RecipeError
from peftkit.plugins import Registry
from peftkit.sweep.grid import Grid, Layer, Study, address, final_seeds, make, nested, problems_at
from peftkit.sweep.tables import TuneTable
from peftkit.sweep.tuning import HEAD_RATE, Subject, kind_of


def heads_of(grid: Grid, registry: Registry, overrides: Sequence[str] = ()) -> dict[str, Subject]:
    """By the label of a study, the head that is tuned before it.

    Studies whose model has no new head, or whose head has a learning rate already, are left out.

    Args:
        grid: the sweep.
        registry: the installed components.
        overrides: those that the grid was expanded with.

    Raises:
        RecipeError: the reference method cannot be used with a model and task.
        RunError: a model lies on a hub, and its config cannot be loaded.
    """
    tune = grid.table.tune
    if tune is None:
        return {}
    kinds: dict[tuple[str, str | None], ModelKind | None] = {}
    found = {}
    for study in grid.studies:
        recipe = study.any_recipe
        if recipe.train.head_learning_rate is not None:
            continue
        model = recipe.model.name, recipe.model.revision
        if model not in kinds:
            kinds[model] = kind_of(recipe)
        if kinds[model] == "encoder":
            found[study.label] = _head(grid, study, tune, registry, overrides)
    return found


def head_layer(head: Mapping[str, Any] | None) -> Layer:
    """What a tuned head sets in a recipe, from its record in ``tuning.json``."""
    return nested({HEAD_RATE: head["learning_rate"]}) if head else {}


def _head(grid: Grid, study: Study, tune: TuneTable, registry: Registry, overrides: Sequence[str]) -> Subject:
    """The head's recipe has the reference method, and of the axes those alone that name the model or the task.

    So all studies of a model and task have the same head.
    """
    recipe = study.any_recipe
    shared = tuple(
        {key: inner for key, inner in layer.items() if key != "method"}
        for layer in study.layers
        if layer.keys() & {"model", "task"}
    )
    layers: tuple[Layer, ...] = (*shared, {"method": {"name": tune.head.method}})
    label = f"head of {recipe.model.name} · {recipe.task.name}"
    try:
        own = make(grid.path, grid.table, registry, layers, overrides)
        trial = make(grid.path, grid.table, registry, (*layers, tune.set), overrides)
    except RecipeError as error:
        raise RecipeError(problems_at(grid.path, label, error)) from error
    search = {HEAD_RATE: Between(tune.head.low, tune.head.high, log=True)}
    seeds = final_seeds(grid.table, study)
    return Subject(label, layers, own, search, tune.head.trials, f"head-{address(trial)}", seeds)
