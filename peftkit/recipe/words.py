"""Fields and types in words: what an option takes, under which spellings, and where in a recipe it stands."""

from __future__ import annotations

import datetime
import enum
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from peftkit.components import Component
from peftkit.recipe.positions import KeyPath
from peftkit.recipe.tables import Recipe

Components = Mapping[KeyPath, type[Component]]
"""The classes of the component tables, by path, as far as their names are known."""

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
_ONE: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text in quotes",
    Path: "a path in quotes",
    datetime.date: "a date",
    datetime.time: "a time",
    datetime.datetime: "a date with a time",
    Any: "any value",
}
_MANY: Mapping[Any, str] = {int: "whole numbers", float: "numbers", str: "texts in quotes", Path: "paths in quotes"}
_LISTS: tuple[Any, ...] = (list, tuple, set, frozenset, Sequence)
_TABLES: tuple[Any, ...] = (dict, Mapping)


def allowed(field: FieldInfo) -> str:
    """What a field takes, in words: ``a whole number, at least 1``."""
    limits = []
    for rule in field.metadata:
        limits += [f"{text} {getattr(rule, key)}" for key, text in _BOUNDS.items() if _has(rule, key)]
        if _has(rule, "pattern"):
            limits.append(f"matching {rule.pattern}")
        if _has(rule, "min_length"):
            limits.append("not empty" if rule.min_length == 1 else f"of length {rule.min_length} or more")
        if _has(rule, "max_length"):
            limits.append(f"of length {rule.max_length} or less")
    return ", ".join([type_words(field.annotation), *limits])


def type_words(annotation: Any) -> str:
    """A type in words: ``one of 'sum', 'norm'``, ``a whole number, or a list of texts in quotes``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return allowed(FieldInfo.from_annotation(annotation))
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(shown, arguments))
    if origin in (Union, types.UnionType):
        arms = [a for a in arguments if a is not type(None) and not (a is int and float in arguments)]
        arms.sort(key=lambda arm: get_origin(arm) in _LISTS)
        return ", or ".join(dict.fromkeys(map(type_words, arms)))
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: " + ", ".join(map(type_words, arguments))
    if origin in _LISTS:
        many = _MANY.get(arguments[0])
        return f"a list of {many}" if many else f"a list, each {type_words(arguments[0])}"
    if origin in _TABLES:
        return f"a table of {_MANY[arguments[1]]}" if arguments[1] in _MANY else "a table"
    if annotation in _LISTS:
        return "a list"
    if annotation in _TABLES or _is_model(annotation):
        return "a table"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "one of " + ", ".join(shown(member.value) for member in annotation)
    return _ONE.get(annotation, str(getattr(annotation, "__name__", annotation)))


def shown(value: object) -> str:
    """A value as TOML has it, cut where it is long; of a table only that it is one."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and not fits_64_bits(value):
        return "a number beyond 64 bits"  # it may be longer than Python turns into a text
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        text = f"[{', '.join(map(shown, value))}]"
    else:
        text = repr(value) if isinstance(value, str | int | float) else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def fits_64_bits(value: int) -> bool:
    """Whether TOML promises that the number can be kept."""
    return -(2**63) <= value < 2**63


def spellings(name: str, field: FieldInfo) -> list[str]:
    """The keys under which a recipe may give the field, its own name first."""
    alias = field.validation_alias
    others = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return list(dict.fromkeys([name, *(a for a in others if isinstance(a, str))]))


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys that a table takes, further spellings among them; a component's name goes without saying."""
    names = [n for n in model.model_fields if not (n == "name" and issubclass(model, Component))]
    keys = [key for name in names for key in spellings(name, model.model_fields[name])]
    return ["extends", *keys] if model is Recipe else keys


def field_at(path: KeyPath, components: Components) -> FieldInfo | None:
    """The field that the key at a path sets, or one that stands for an element of a list or table; None if unknown."""
    here: Any = Recipe
    field: FieldInfo | None = None
    for depth, part in enumerate(path):
        field = _inside(components.get(path[:depth], here), part)
        if field is None:
            return None
        here = field.annotation
    return field


def model_at(path: KeyPath, components: Components) -> type[BaseModel] | None:
    """The model of the table at a path; None if it is no table with keys of its own."""
    if not path:
        return Recipe
    field = field_at(path, components)
    here = components.get(path, field.annotation if field else None)
    return next((arm for arm in (here, *get_args(here)) if _is_model(arm)), None)


def literals(annotation: Any) -> list[str]:
    """The texts that a type spells out."""
    if get_origin(annotation) is Literal:
        return [a for a in get_args(annotation) if isinstance(a, str)]
    return [text for inner in get_args(annotation) for text in literals(inner)]


def takes_dates(annotation: Any) -> bool:
    """Whether TOML's dates or times mean something to a type."""
    return annotation in (Any, datetime.date, datetime.time, datetime.datetime) or any(
        map(takes_dates, get_args(annotation))
    )


def _inside(annotation: Any, part: str | int) -> FieldInfo | None:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if _is_model(annotation):
        fields: Mapping[str, FieldInfo] = annotation.model_fields
        return next((field for name, field in fields.items() if part in spellings(name, field)), None)
    if origin in (Union, types.UnionType, Annotated):
        arms = arguments[:1] if origin is Annotated else arguments
        return next((field for arm in arms if (field := _inside(arm, part))), None)
    if origin in _LISTS and isinstance(part, int):
        fixed = origin is tuple and Ellipsis not in arguments
        index = part if fixed else 0
        return FieldInfo.from_annotation(arguments[index]) if index < len(arguments) else None
    if origin in _TABLES and isinstance(part, str):
        return FieldInfo.from_annotation(arguments[1])
    return None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel)


def _has(rule: object, key: str) -> bool:
    return getattr(rule, key, None) is not None
