"""Builds a recipe of Python values, validated like the file with the same keys."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from peftkit.errors import Problem, RecipeError
from peftkit.plugins import Kind, Registry, load_registry
from peftkit.recipe.component_validation import LISTED
from peftkit.recipe.load_recipe import find_invalid_keys, validate_recipe
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.recipe_file import MAX_DEPTH, format_key, raw_from_tables
from peftkit.recipe.toml_lines import KeyPath

NAMED = ("model", "task", "method", "objective")
"""Tables that a name may stand for."""


def build_recipe(
    tables: Mapping[str, Any],
    *,
    budget: Any = None,
    overrides: Iterable[str] = (),
    extends: str | Path | None = None,
    registry: Registry | None = None,
) -> Recipe:
    """Build a recipe.

    Args:
        tables: The tables by name; those that are None are left out.
        budget: The table ``[train.budget]``; None if ``tables`` has it.
        overrides: ``key.path=value`` texts.
        extends: A recipe's file to start from; None for none.
        registry: The components; None for the installed ones.

    Returns:
        The recipe.

    Raises:
        RecipeError: The recipe is invalid; it lists all problems by key.
    """
    problems: dict[KeyPath, str] = {}
    data = _to_toml({key: value for key, value in tables.items() if value is not None}, (), problems)
    for name in NAMED:
        if isinstance(data.get(name), str):
            data[name] = {"name": data[name]}
    for kind in LISTED:
        if isinstance(data.get(kind), str):
            data[kind] = [data[kind]]
        if isinstance(data.get(kind), list):
            data[kind] = [{"name": each} if isinstance(each, str) else each for each in data[kind]]
    if budget is not None:
        train = data.setdefault("train", {})
        if isinstance(train, dict) and "budget" in train:
            problems["train", "budget"] = "is set twice, by budget and by train; keep one"
        elif isinstance(train, dict):
            train["budget"] = _to_toml(budget, ("train", "budget"), problems)
    if problems:
        raise _error(problems)
    return validate_recipe(raw_from_tables(data, overrides, extends), registry or load_registry())


def build_table(kind: Kind, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Build the table of a component, and check its name and options.

    Args:
        kind: ``method``, ``task``, ``objective`` or ``metric``.
        name: The component's name.
        options: Its options.

    Returns:
        The table, for ``Recipe.build``.

    Raises:
        RecipeError: There is no such component, or an option is invalid.
    """
    problems: dict[KeyPath, str] = {}
    table: dict[str, Any] = _to_toml({**options, "name": name}, (kind,), problems)
    if problems:
        raise _error(problems)
    invalid = find_invalid_keys(raw_from_tables({kind: [table] if kind in LISTED else table}), load_registry())
    # As a recipe, it lacks the other tables.
    if of_table := [each for each in invalid if each.key.startswith((f"{kind}.", f"{kind}["))]:
        raise RecipeError(of_table)
    return {"name": name, **{key: value for key, value in table.items() if key != "name"}}


def _error(problems: Mapping[KeyPath, str]) -> RecipeError:
    return RecipeError(Problem("", None, format_key(path), text) for path, text in problems.items())


def _to_toml(value: Any, path: KeyPath, problems: dict[KeyPath, str]) -> Any:
    """Convert Python values to those that TOML has; None stands for a key that is not set."""
    if len(path) > MAX_DEPTH:
        problems[path[:3]] = "is nested too deep"
        return None
    if isinstance(value, BaseModel):  # a part of another recipe
        value = value.model_dump(mode="json")
    if isinstance(value, Mapping):
        unset = {key for key, inner in value.items() if inner is None}
        if wrong := [key for key in value if not isinstance(key, str)]:
            problems[path] = f"has the key {wrong[0]!r}; keys must be strings"
            return {}
        return {key: _to_toml(inner, (*path, key), problems) for key, inner in value.items() if key not in unset}
    if isinstance(value, list | tuple):
        return [_to_toml(inner, (*path, index), problems) for index, inner in enumerate(value)]
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a number of numpy or torch
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, str):
        return str.__str__(value)
    if not isinstance(value, datetime.date | datetime.time):
        problems[path] = (
            f"cannot be of the type {type(value).__name__}; a recipe has strings, numbers, booleans, dates, lists and "
            "tables"
        )
    return value
