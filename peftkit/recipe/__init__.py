"""TOML text → a validated, frozen ``Recipe`` that already holds the component objects."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from peftkit.components import Component
from peftkit.errors import PluginError, Problem, RecipeError
from peftkit.plugins import Kind, Registry
from peftkit.recipe.check import findings, unmeasured
from peftkit.recipe.names import model_config
from peftkit.recipe.positions import KeyPath
from peftkit.recipe.problems import as_json, misfits, problems
from peftkit.recipe.source import OVERRIDE, Source, dotted, read
from peftkit.recipe.tables import Recipe
from peftkit.recipe.words import Components, spellings

__all__ = ["Recipe", "dump_recipe", "load_recipe", "without_none"]


def load_recipe(path: str | Path, registry: Registry, overrides: Iterable[str] = ()) -> Recipe:
    """Reads, merges, validates and checks a recipe.

    Args:
        path: the TOML file.
        registry: the installed components.
        overrides: ``key.path=value`` texts that are laid over the file.

    Raises:
        RecipeError: with everything that is wrong.
        PluginError: a component fails when it is asked what it refuses.
    """
    source = read(Path(path), overrides)
    components = _components(source.data, registry)
    _complete(source, components)
    recipe: Recipe | None = None
    found = misfits(source, components)
    try:
        recipe = _validated(source.data, registry)
    except ValidationError as error:
        found |= {path: text for path, text in problems(error, source, components).items() if path not in found}
        # What cannot work together is told along with what is wrong by itself, as far as the rest can be judged.
        with suppress(ValidationError):
            recipe = _validated(_without(source.data, found), registry)
    if recipe:
        # A component that is wrong in itself is not judged in its company: its options are not what was meant.
        wrong = {key[:1] if key[0] in ("task", "method", "metric") else key for key in found}
        for key, text in (*findings(recipe, model_config(recipe.model.name)), *unmeasured(recipe, registry)):
            if key not in wrong and key[:1] not in wrong:
                found.setdefault(key, text)
    if found or recipe is None:
        raise RecipeError(_in_order(found, source))
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML with every key resolved; reading it again gives an equal recipe."""
    return tomli_w.dumps(without_none(recipe.model_dump(mode="json")))


def without_none(value: Any) -> Any:
    """The value as TOML can have it, which has no null: every None is the default of an option that may be left out."""
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, list) else value


def _validated(data: dict[str, Any], registry: Registry) -> Recipe:
    return Recipe.model_validate_json(as_json(data), strict=True, context={"registry": registry})


def _components(data: dict[str, Any], registry: Registry) -> Components:
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
            with suppress(PluginError):  # validation reports it, with its place
                found[path] = registry.find(kind, name).component
    return found


def _complete(source: Source, components: Components) -> None:
    """Fills in what the task decides, and settles options that layers give under different spellings."""
    for table in ("task", "method"):
        source.data.setdefault(table, {})  # so that the missing name is told with what is installed
    if "metric" not in source.data and (task := components.get(("task",))):
        source.data["metric"] = [{"name": name} for name in getattr(task, "metrics", ())]
        source.origins[("metric",)] = source.origin(("task", "name"))
    for path, component in components.items():
        options = source.value(path)
        for name, field in component.model_fields.items():
            *lower, last = [key for key in options if key in spellings(name, field)] or [name]
            for key in lower:  # twice in one file is a mistake, and told as such
                files = {source.origin((*path, k)).file for k in (key, last)}
                if len(files) > 1 or files == {OVERRIDE}:
                    del options[key]


def _without(data: dict[str, Any], paths: Iterable[KeyPath]) -> dict[str, Any]:
    """The data without the keys at the paths; of a list that holds one of them nothing is left."""
    pruned = copy.deepcopy(data)
    for path in paths:
        keys = list(takewhile(lambda part: isinstance(part, str), path))
        table: Any = pruned
        for key in keys[:-1]:
            table = table.get(key, {})
        if keys:
            table.pop(keys[-1], None)
    return pruned


def _in_order(found: Mapping[KeyPath, str], source: Source) -> list[Problem]:
    """The recipe's own problems first, then those of its bases, by their lines, and then of the command line."""
    places = {path: place for place, path in enumerate(source.origins)}
    told = []
    for path in sorted(found, key=lambda path: places.get(path, -1)):
        origin = source.origin(path)
        told.append(Problem(origin.file, origin.line, dotted(path), found[path]))
    files = list(dict.fromkeys([source.file, *(p.file for p in told if p.file != OVERRIDE), OVERRIDE]))
    return sorted(told, key=lambda p: (files.index(p.file), p.line or 0))
