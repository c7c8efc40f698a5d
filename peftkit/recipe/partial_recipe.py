"""A recipe with invalid keys, of which the valid ones can be read and checked."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from itertools import takewhile
from types import MethodType
from typing import Any, cast

from pydantic import ValidationError

from peftkit.components import Component
from peftkit.plugins import Kind, Registry
from peftkit.recipe.component_validation import LISTED
from peftkit.recipe.messages.validation_errors import key_path, to_json
from peftkit.recipe.model_names import BUILT_IN_MODELS
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.tables.config_table import ConfigTable
from peftkit.recipe.toml_lines import KeyPath

MAX_PASSES = 20
"""How often a recipe is validated without its invalid keys; tables without them may be invalid in turn."""


class InvalidKeyError(Exception):
    """A check reads an invalid key, so that nothing is known about what it checks."""


def known() -> suppress:
    """Return a context that ends, without an error, where it reads an invalid key."""
    return suppress(InvalidKeyError)


def partial_recipe(data: dict[str, Any], invalid: Iterable[KeyPath], registry: Registry) -> Recipe | None:
    """Validate a recipe without its invalid keys.

    Args:
        data: The recipe as plain data.
        invalid: The paths of its invalid keys.
        registry: The installed components.

    Returns:
        A recipe that raises ``InvalidKeyError`` where an invalid key is read, also by its properties and methods; None
        if the recipe is invalid as a whole.
    """
    pruned = copy.deepcopy(data)
    # Metrics that are not set are those of the task: they are unknown if the task is.
    removed: set[KeyPath] = set() if "metric" in data else {("metric",)}
    paths = list(invalid)
    for _ in range(MAX_PASSES):
        removed |= {_remove(pruned, path) for path in paths}
        try:
            recipe = Recipe.model_validate_json(
                to_json(pruned), strict=True, context={"registry": registry, "partial": True}
            )
        except ValidationError as error:
            paths = [key_path(details, pruned) for details in error.errors(include_url=False)]
            if not all(paths):
                return None
        else:
            return cast("Recipe", _Partial(recipe, (), removed))
    return None


def without_keys(recipe: Recipe, invalid: Iterable[KeyPath]) -> Recipe:
    """Return a recipe that raises ``InvalidKeyError`` where one of some keys is read.

    Args:
        recipe: The recipe.
        invalid: The paths of the keys; of a key in a component or a value, the whole of it cannot be read.
    """
    table = recipe._value if isinstance(recipe, _Partial) else recipe
    paths = {_readable(table, path) for path in invalid}
    return cast("Recipe", _Partial(table, (), paths | (recipe._invalid if isinstance(recipe, _Partial) else set())))


def _readable(table: Any, path: KeyPath) -> KeyPath:
    """Return the path of what is read as a whole: of a table's value, a component or an unknown key."""
    for depth, key in enumerate(path):
        if not isinstance(table, ConfigTable):
            return path[:depth]
        table = getattr(table, str(key), None)
    return path


def listed(recipe: Recipe, kind: Kind) -> Iterator[tuple[int, Component]]:
    """Yield the valid components of a list of tables, with their indices.

    Args:
        recipe: The recipe.
        kind: ``metric`` or ``callback``.
    """
    value = recipe._value if isinstance(recipe, _Partial) else recipe
    yield from ((index, each) for index, each in enumerate(getattr(value, kind)) if each is not None)


class _Partial:
    """A table of a recipe whose invalid keys raise ``InvalidKeyError``.

    Args:
        value: The table, with other values in the place of the invalid ones.
        path: The path of the table.
        invalid: The paths of all invalid keys.
    """

    def __init__(self, value: ConfigTable, path: KeyPath, invalid: AbstractSet[KeyPath]) -> None:
        self._value = value
        self._path = path
        self._invalid = invalid

    def __getattr__(self, name: str) -> Any:
        path = (*self._path, name)
        parts = {key[:1] for key in self._invalid} if name in LISTED else self._invalid
        if path in parts:
            raise InvalidKeyError(path)
        member = inspect.getattr_static(type(self._value), name, None)
        if isinstance(member, property) and member.fget:
            return member.fget(self)
        if inspect.isfunction(member):
            return MethodType(member, self)
        value = getattr(self._value, name)
        return _Partial(value, path, self._invalid) if isinstance(value, ConfigTable) else value


def _remove(data: dict[str, Any], path: KeyPath) -> KeyPath:
    """Remove an invalid key, and return the path of what is invalid: the key, or the table or component around it."""
    top = path[0]
    if top in LISTED and len(path) > 1 and isinstance(data.get(str(top)), list):
        data[str(top)][path[1]] = None
        return path[:2]
    if top in ("task", "method", "objective"):
        data[str(top)] = None
        return path[:1]
    if path == ("model",) or path[:2] == ("model", "name"):  # the only other keys that are required
        table = data.get("model")
        data["model"] = {**(table if isinstance(table, dict) else {}), "name": BUILT_IN_MODELS[0]}
        return path[:2]
    keys: list[str | int] = list(takewhile(lambda part: isinstance(part, str), path))
    while keys:
        *tables, last = keys
        table = data
        for part in tables:
            table = table.get(part) if isinstance(table, dict) else None
        if isinstance(table, dict) and last in table:
            del table[last]
            break
        keys = tables or keys[:0]
    return tuple(keys) or path
