"""Describes fields and types for error messages, and looks up the field of a recipe's key."""

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
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.toml_lines import KeyPath

Components = Mapping[KeyPath, type[Component]]
"""The classes of the component tables by path, as far as they are installed."""

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}
_SINGULAR: Mapping[Any, str] = {
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
_PLURAL: Mapping[Any, str] = {int: "whole numbers", float: "numbers", str: "texts in quotes", Path: "paths in quotes"}
_SEQUENCE_TYPES: tuple[Any, ...] = (list, tuple, set, frozenset, Sequence)
_MAPPING_TYPES: tuple[Any, ...] = (dict, Mapping)


def describe_field(field: FieldInfo) -> str:
    """Describe the values of a field: ``a whole number, at least 1``."""
    limits = []
    for rule in field.metadata:
        limits += [f"{text} {getattr(rule, key)}" for key, text in _BOUNDS.items() if _is_set(rule, key)]
        if _is_set(rule, "pattern"):
            limits.append(f"matching {rule.pattern}")
        if _is_set(rule, "min_length"):
            limits.append("not empty" if rule.min_length == 1 else f"of length {rule.min_length} or more")
        if _is_set(rule, "max_length"):
            limits.append(f"of length {rule.max_length} or less")
    return ", ".join([describe_type(field.annotation), *limits])


def describe_type(annotation: Any) -> str:
    """Describe a type: ``one of 'sum', 'norm'``, ``a whole number, or a list of texts in quotes``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe_field(FieldInfo.from_annotation(annotation))
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(format_value, arguments))
    if origin in (Union, types.UnionType):
        alternatives = [a for a in arguments if a is not type(None) and not (a is int and float in arguments)]
        alternatives.sort(key=lambda alternative: get_origin(alternative) in _SEQUENCE_TYPES)
        return ", or ".join(dict.fromkeys(map(describe_type, alternatives)))
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: " + ", ".join(map(describe_type, arguments))
    if origin in _SEQUENCE_TYPES:
        plural = _PLURAL.get(arguments[0])
        return f"a list of {plural}" if plural else f"a list, each {describe_type(arguments[0])}"
    if origin in _MAPPING_TYPES:
        return f"a table of {_PLURAL[arguments[1]]}" if arguments[1] in _PLURAL else "a table"
    if annotation in _SEQUENCE_TYPES:
        return "a list"
    if annotation in _MAPPING_TYPES or _is_model(annotation):
        return "a table"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "one of " + ", ".join(format_value(member.value) for member in annotation)
    return _SINGULAR.get(annotation, str(getattr(annotation, "__name__", annotation)))


def format_value(value: object) -> str:
    """Format a value as in TOML, shortened to 60 characters; a table becomes ``a table``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and not fits_64_bits(value):
        return "a number beyond 64 bits"  # may have more digits than Python formats
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        text = f"[{', '.join(map(format_value, value))}]"
    else:
        text = repr(value) if isinstance(value, str | int | float) else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def fits_64_bits(value: int) -> bool:
    """Whether an integer is within the range that TOML guarantees."""
    return -(2**63) <= value < 2**63


def aliases(name: str, field: FieldInfo) -> list[str]:
    """List the keys by which a recipe may set a field.

    Args:
        name: The field's name.
        field: The field.

    Returns:
        The name, then its aliases.
    """
    alias = field.validation_alias
    others = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return list(dict.fromkeys([name, *(a for a in others if isinstance(a, str))]))


def known_keys(model: type[BaseModel]) -> list[str]:
    """List the keys of a table, aliases included, without the ``name`` of a component."""
    names = [n for n in model.model_fields if not (n == "name" and issubclass(model, Component))]
    keys = [key for name in names for key in aliases(name, model.model_fields[name])]
    return ["extends", *keys] if model is Recipe else keys


def field_for(path: KeyPath, components: Components) -> FieldInfo | None:
    """Look up the field of a key; an element of a list or table gets a field of its type.

    Args:
        path: The path of the key.
        components: The classes of the component tables.

    Returns:
        The field; None if the key is unknown.
    """
    annotation: Any = Recipe
    field: FieldInfo | None = None
    for depth, part in enumerate(path):
        field = _inner_field(components.get(path[:depth], annotation), part)
        if field is None:
            return None
        annotation = field.annotation
    return field


def model_for(path: KeyPath, components: Components) -> type[BaseModel] | None:
    """Look up the model of a table.

    Args:
        path: The path of the table.
        components: The classes of the component tables.

    Returns:
        The model; None if the path is not a table with known keys.
    """
    if not path:
        return Recipe
    field = field_for(path, components)
    annotation = components.get(path, field.annotation if field else None)
    return next((each for each in (annotation, *get_args(annotation)) if _is_model(each)), None)


def literals(annotation: Any) -> list[str]:
    """List the strings of the ``Literal`` types within a type."""
    if get_origin(annotation) is Literal:
        return [a for a in get_args(annotation) if isinstance(a, str)]
    return [text for inner in get_args(annotation) for text in literals(inner)]


def takes_dates(annotation: Any) -> bool:
    """Whether a type accepts TOML's dates or times."""
    return annotation in (Any, datetime.date, datetime.time, datetime.datetime) or any(
        map(takes_dates, get_args(annotation))
    )


def _inner_field(annotation: Any, part: str | int) -> FieldInfo | None:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if _is_model(annotation):
        fields: Mapping[str, FieldInfo] = annotation.model_fields
        return next((field for name, field in fields.items() if part in aliases(name, field)), None)
    if origin in (Union, types.UnionType, Annotated):
        alternatives = arguments[:1] if origin is Annotated else arguments
        return next((field for each in alternatives if (field := _inner_field(each, part))), None)
    if origin in _SEQUENCE_TYPES and isinstance(part, int):
        fixed = origin is tuple and Ellipsis not in arguments
        index = part if fixed else 0
        return FieldInfo.from_annotation(arguments[index]) if index < len(arguments) else None
    if origin in _MAPPING_TYPES and isinstance(part, str):
        return FieldInfo.from_annotation(arguments[1])
    return None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel)


def _is_set(rule: object, key: str) -> bool:
    return getattr(rule, key, None) is not None
