"""pydantic's errors in a recipe author's words: file, line, key, what is allowed, what was probably meant."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import BaseMetadata
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from peftkit.components import Component
from peftkit.errors import Problem, did_you_mean, listed
from peftkit.recipe.positions import Path
from peftkit.recipe.source import Source
from peftkit.recipe.tables import Recipe

Components = Mapping[Path, type[Component]]
"""The classes of the component tables, by path, as far as their names are known."""

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text in quotes"}


def problems(error: ValidationError, source: Source, components: Components) -> list[Problem]:
    """One problem per key: where alternatives of a union fail each for itself, they are told as one."""
    found: dict[Path, Problem] = {}
    for details in error.errors(include_url=False):
        path = _key_path(details["loc"], source.data)
        if path not in found:
            origin = source.origin(path)
            found[path] = Problem(origin.file, origin.line, dotted(path), _text(details, path, source, components))
    return list(found.values())


def dotted(path: Path) -> str:
    """``("metric", 0, "name")`` → ``metric[0].name``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def allowed(field: FieldInfo) -> str:
    """What a field takes, in words: ``a whole number, at least 1``."""
    limits = []
    for rule in field.metadata:
        if isinstance(rule, BaseMetadata):
            limits += [f"{_BOUNDS[k]} {v:g}" for k, v in vars_of(rule).items() if k in _BOUNDS and v is not None]
        if pattern := getattr(rule, "pattern", None):
            limits.append(f"matching {pattern}")
        if getattr(rule, "min_length", None):
            limits.append("not empty")
    return ", ".join([type_words(field.annotation), *limits])


def vars_of(rule: object) -> dict[str, Any]:
    """The attributes of a slotted or ordinary object."""
    return {name: getattr(rule, name) for name in _BOUNDS if hasattr(rule, name)}


def type_words(annotation: Any) -> str:
    """A type in words: ``one of 'sum', 'norm'``, ``a whole number or a list of texts``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(map(_toml, arguments)) if len(arguments) > 1 else _toml(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_words(a) for a in arguments if a is not type(None)))
    if origin in (tuple, list, set, frozenset):
        return f"a list; each element: {type_words(arguments[0])}" if arguments else "a list"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "a table"
    if get_args(annotation) and hasattr(annotation, "__metadata__"):
        return type_words(arguments[0])
    return _WORDS.get(getattr(annotation, "__name__", ""), str(getattr(annotation, "__name__", annotation)))


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys that a table takes."""
    return [name for name in model.model_fields]


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _key_path(loc: Sequence[str | int], data: Any) -> Path:
    """pydantic's location without the parts it adds for unions and tags, which are not in the recipe."""
    path: list[str | int] = []
    for index, part in enumerate(loc):
        inside = isinstance(data, dict) and part in data or isinstance(data, list) and isinstance(part, int)
        if inside:
            data = data[part]
        elif not (isinstance(data, dict) and index == len(loc) - 1):
            break
        path.append(part)
    return tuple(path)


def _owner(path: Path, components: Components) -> tuple[str, type[BaseModel] | None]:
    """The table that the path lies in: how to call it, and its model."""
    for depth in range(len(path), 0, -1):
        if component := components.get(path[:depth]):
            if depth != len(path) - 1:
                return "", None
            return repr(component.model_fields["name"].default), component
    model: type[BaseModel] | None = Recipe
    for part in path[:-1]:
        field = model.model_fields.get(str(part)) if model else None
        annotation = field.annotation if field else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return f"[{dotted(path[:-1])}]" if len(path) > 1 else "a recipe", model


def _text(details: ErrorDetails, path: Path, source: Source, components: Components) -> str:
    kind, value = details["type"], details.get("input")
    owner, model = _owner(path, components)
    field = model.model_fields.get(str(path[-1])) if model and path else None
    if kind == "extra_forbidden" and model:
        keys = keys_of(model)
        return f"unknown key; {owner} takes {listed(keys)}{did_you_mean(str(path[-1]), keys)}"
    if kind == "missing":
        meaning = f" ({allowed(field)})" if field else ""
        return f"missing; it is required{meaning}"
    if kind == "component_name" or kind in ("unknown_component", "no_limit", "interval", "format"):
        return str(details["msg"])
    if kind == "value_error":
        return str(details["msg"]).removeprefix("Value error, ")
    if field is None:
        return f"{details['msg']}, not {_shown(value)}"
    guess = ""
    if isinstance(value, str) and get_origin(field.annotation) is Literal:
        guess = did_you_mean(value, [str(a) for a in get_args(field.annotation)])
    return f"must be {allowed(field)}, not {_shown(value)}{guess}"


def _shown(value: object) -> str:
    text = _toml(value) if isinstance(value, bool | str | int | float) else "a table" if isinstance(value, dict) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
