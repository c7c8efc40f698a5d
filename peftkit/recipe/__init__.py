"""TOML text → a validated, frozen ``Recipe`` that already holds the component objects."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from peftkit.components import Component
from peftkit.errors import PluginError, Problem, RecipeError
from peftkit.plugins import Kind, Registry
from peftkit.recipe.check import findings, model_config
from peftkit.recipe.positions import Path as KeyPath
from peftkit.recipe.problems import dotted, problems
from peftkit.recipe.source import Source, read
from peftkit.recipe.tables import Recipe

__all__ = ["Recipe", "dump_recipe", "load_recipe"]


def load_recipe(path: str | Path, registry: Registry, overrides: Iterable[str] = ()) -> Recipe:
    """Reads, merges, validates and checks a recipe.

    Args:
        path: the TOML file.
        registry: the installed components.
        overrides: ``key.path=value`` texts that are laid over the file.

    Raises:
        RecipeError: with everything that is wrong.
    """
    source = read(Path(path), overrides)
    components = _components(source.data, registry)
    if task := components.get(("task",)):
        source.data.setdefault("metric", [{"name": name} for name in getattr(task, "metrics", ())])
    try:
        text = json.dumps(source.data, default=str)
        recipe = Recipe.model_validate_json(text, strict=True, context={"registry": registry})
    except ValidationError as error:
        raise RecipeError(problems(error, source, components)) from error
    except RecursionError as error:
        raise RecipeError([Problem(source.file, None, "", "its values are nested too deep")]) from error
    check_recipe(recipe, source)
    return recipe


def check_recipe(recipe: Recipe, source: Source) -> None:
    """Refuses what is valid by itself and cannot work together.

    Raises:
        RecipeError: with every reason and its remedy.
    """
    found = []
    for path, text in findings(recipe, model_config(recipe.model.name)):
        origin = source.origin(path)
        found.append(Problem(origin.file, origin.line, dotted(path), text))
    if found:
        raise RecipeError(found)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML with every key resolved; reading it again gives an equal recipe."""
    return tomli_w.dumps(_without_none(recipe.model_dump(mode="json")))


def _without_none(value: Any) -> Any:
    """TOML has no null; every None is the default of an option that may be left out."""
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value


def _components(data: dict[str, Any], registry: Registry) -> dict[KeyPath, type[Component]]:
    tables: list[tuple[KeyPath, Kind, Any]] = [
        (("task",), "task", data.get("task")),
        (("method",), "method", data.get("method")),
    ]
    metrics = data.get("metric")
    if isinstance(metrics, list):
        tables += [(("metric", index), "metric", table) for index, table in enumerate(metrics)]
    found: dict[KeyPath, type[Component]] = {}
    for path, kind, table in tables:
        name = table.get("name") if isinstance(table, dict) else None
        if isinstance(name, str):
            try:
                found[path] = registry.find(kind, name).component
            except PluginError:
                continue  # validation reports it, with its place
    return found
