"""Recipes: build them in Python, load them from files, and estimate what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.data_files import is_data_object, store_data_object
from peftkit.plugins import load_registry
from peftkit.recipe import Recipe
from peftkit.recipe.build_recipe import build_recipe, build_table
from peftkit.recipe.load_recipe import load_recipe as load_recipe_file

if TYPE_CHECKING:
    from peftkit.analysis.cost_estimate import CostEstimate
    from peftkit.analysis.memory_fit import MemoryFit


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Load and validate a recipe's file.

    Args:
        path: The TOML file.
        overrides: ``key.path=value`` texts, as after ``--set``.

    Returns:
        The recipe.

    Raises:
        RecipeError: The recipe is invalid; it lists all problems with file, line and key.
    """
    return load_recipe_file(path, load_registry(), overrides)


def method(name: str, **options: Any) -> dict[str, Any]:
    """Build the table ``[method]`` of a recipe.

    Args:
        name: The method's name, such as ``lora``.
        options: Its options, such as ``r=8``.

    Returns:
        The table, for ``Recipe.build``.

    Raises:
        RecipeError: There is no such method, or an option is invalid.
    """
    return build_table("method", name, options)


def task(name: str, **options: Any) -> dict[str, Any]:
    """Build the table ``[task]`` of a recipe.

    Args:
        name: The task's name, such as ``wordnet_topic``.
        options: Its options. ``path`` may also be a DataFrame or a ``datasets.Dataset``, or one for each split as in a
            ``DatasetDict``; it is stored in peftkit's cache folder under a digest of its content.

    Returns:
        The table, for ``Recipe.build``.

    Raises:
        RecipeError: There is no such task, or an option is invalid.
        InputError: An object cannot be stored.
    """
    if is_data_object(options.get("path")):
        options["path"] = store_data_object(options["path"], "path")
    return build_table("task", name, options)


def objective(name: str, **options: Any) -> dict[str, Any]:
    """Build the table ``[objective]`` of a recipe.

    Args:
        name: The objective's name, such as ``classification_head``.
        options: Its options.

    Returns:
        The table, for ``Recipe.build``.

    Raises:
        RecipeError: There is no such objective, or an option is invalid.
    """
    return build_table("objective", name, options)


def metric(name: str, **options: Any) -> dict[str, Any]:
    """Build a table ``[[metric]]`` of a recipe.

    Args:
        name: The metric's name, such as ``accuracy``.
        options: Its options.

    Returns:
        The table, for ``Recipe.build``.

    Raises:
        RecipeError: There is no such metric, or an option is invalid.
    """
    return build_table("metric", name, options)


def estimate(recipe: Recipe | str | Path, overrides: Iterable[str] = (), *, trial: bool = False) -> CostEstimate:
    """Estimate the MACs, memory and checkpoint size of a recipe, without loading weights.

    Args:
        recipe: The recipe, or its file.
        overrides: ``key.path=value`` texts, as after ``--set``.
        trial: Whether to run a few steps on this machine to estimate the time too.

    Returns:
        The estimate.

    Raises:
        RecipeError: The recipe is invalid.
        InputError: A row of its data is invalid, or the model is too large for a method that needs weights.
        RunError: The model's config, its tokenizer or the data cannot be read.
    """
    resolved = resolve_recipe(recipe, overrides)
    from peftkit.monitor.process_state import isolated_process_state

    with isolated_process_state():
        from peftkit.analysis.cost_estimate import estimate_cost

        return estimate_cost(resolved, load_registry(), trial=trial)


def plan_memory(recipe: Recipe | str | Path, memory: str, overrides: Iterable[str] = ()) -> MemoryFit:
    """Find out which microbatches, gradient checkpointing and 4-bit weights make a recipe fit into memory.

    Args:
        recipe: The recipe, or its file.
        memory: The memory of a GPU, such as ``24GiB``.
        overrides: ``key.path=value`` texts, as after ``--set``.

    Returns:
        The setups that fit, and that which changes the recipe least, as ``remedy``.

    Raises:
        RecipeError: The recipe is invalid.
        InputError: The memory is none, a row of the data is invalid, or the model is too large for a method that needs
            weights.
        RunError: The model's config, its tokenizer or the data cannot be read.
    """
    from peftkit.compare.units import parse_bytes

    limit, given = parse_bytes(memory), [*overrides]
    from peftkit.monitor.process_state import isolated_process_state

    with isolated_process_state():
        from peftkit.analysis import memory_fit

        return memory_fit.plan_memory(lambda more: resolve_recipe(recipe, [*given, *more]), load_registry(), limit)


def resolve_recipe(recipe: Recipe | str | Path, overrides: Iterable[str] = (), data: Any = None) -> Recipe:
    """Load a recipe if it is a file, and apply overrides.

    Args:
        recipe: The recipe, or its file.
        overrides: ``key.path=value`` texts.
        data: The rows of its task (see ``store_data_object``); None for those that it names.

    Returns:
        The recipe.

    Raises:
        RecipeError: The recipe is invalid.
        InputError: The data cannot be stored.
    """
    if data is not None:
        paths = ", ".join(f"{split} = {json.dumps(path)}" for split, path in store_data_object(data).items())
        overrides = [*overrides, f"task.path={{ {paths} }}"]
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, overrides)
    overrides = [*overrides]
    if not overrides:
        return recipe
    tables = dict(recipe)
    without_metrics = {key: value for key, value in tables.items() if key != "metric"}
    if build_recipe(without_metrics) == recipe:  # the task's own metrics: another task has others
        tables = without_metrics
    return build_recipe(tables, overrides=overrides)
