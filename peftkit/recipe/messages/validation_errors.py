"""Turns pydantic's errors into messages: what is wrong, what is allowed, and what was probably meant."""

from __future__ import annotations

import datetime
import json
import math
import tomllib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, core_schema

from peftkit.errors import comma_separated, did_you_mean
from peftkit.recipe.component_validation import LISTED
from peftkit.recipe.messages.type_names import (
    Components,
    aliases,
    describe_field,
    field_for,
    fits_64_bits,
    format_value,
    known_keys,
    literals,
    model_for,
    takes_dates,
)
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.recipe_file import RawRecipe, format_key
from peftkit.recipe.toml_lines import KeyPath

Messages = dict[KeyPath, str]
"""One message per key."""

_DATES = (datetime.date, datetime.time)  # a datetime is a date
_PYDANTIC_ERRORS = frozenset(get_args(core_schema.ErrorType)) - {"value_error", "assertion_error"}


def describe_errors(error: ValidationError, raw: RawRecipe, components: Components) -> Messages:
    """Describe the errors of a recipe; those of the alternatives of a union become one.

    Args:
        error: The errors of pydantic.
        raw: The recipe before validation.
        components: The classes of the component tables.

    Returns:
        The messages.
    """
    messages: Messages = {}
    for details in error.errors(include_url=False):
        path = key_path(details, raw.data)
        if path not in messages:
            messages[path] = _message(details, path, raw, components)
    return messages


def type_mismatches(raw: RawRecipe, components: Components) -> Messages:
    """Describe dates in the place of strings, and integers beyond 64 bits: JSON cannot represent either.

    Args:
        raw: The recipe before validation.
        components: The classes of the component tables.

    Returns:
        The messages.
    """
    messages: Messages = {}
    for path, value in _leaves(raw.data, ()):
        too_large = isinstance(value, int) and not fits_64_bits(value)
        if not (too_large or isinstance(value, _DATES)):
            continue
        field = field_for(path, components)
        if field is None and model_for(path[:-1], components):
            continue  # an unknown key is reported as such
        if too_large:
            messages[path] = "is a number beyond 64 bits" + (f"; must be {describe_field(field)}" if field else "")
        elif field and not takes_dates(field.annotation):
            guess = _suggestion(path, field, value, components)
            messages[path] = f"must be {describe_field(field)}, not the date {value}{guess}"
    return messages


def to_json(data: Any) -> str:
    """Write the data of a recipe as JSON for validation by pydantic."""
    return json.dumps(_to_json_types(data))


def _to_json_types(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_json_types(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_to_json_types(inner) for inner in value]
    if isinstance(value, _DATES):
        return value.isoformat()
    if isinstance(value, int) and not fits_64_bits(value):  # reported by type_mismatches; may be too long to write
        return 2**62 if value > 0 else -(2**62)
    return value


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value


def key_path(details: ErrorDetails, data: Any) -> KeyPath:
    """Return pydantic's location without the parts for unions and tags, which are not keys of the recipe.

    Args:
        details: An error of pydantic.
        data: The recipe as plain data.
    """
    path: list[str | int] = []
    loc = details["loc"]
    for index, part in enumerate(loc):
        exists = part in (data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ())
        missing = isinstance(data, dict) and index == len(loc) - 1 and details["type"] in ("missing", "component_name")
        if not (exists or missing):
            break
        path.append(part)
        data = data[part] if exists else None
    return tuple(path)


def _message(details: ErrorDetails, path: KeyPath, raw: RawRecipe, components: Components) -> str:
    kind, field = details["type"], field_for(path, components)
    exact = path[-1:] == details["loc"][-1:]  # else the location is within a union
    if exact and kind == "extra_forbidden":
        return _unknown_key(path, raw, components)
    if exact and kind == "missing":
        return f"missing; it is required{_required(path, field, components)}"
    if kind not in _PYDANTIC_ERRORS:  # the message of a validator
        return details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if len(path) == 1 and path[0] in LISTED:
        return f"must be a list of tables, each under [[{path[0]}]], not {format_value(raw.value(path))}"
    value = raw.value(path)
    if field is None:
        return f"{details['msg'][:1].lower()}{details['msg'][1:]}, not {format_value(value)}"
    return f"must be {describe_field(field)}, not {format_value(value)}{_suggestion(path, field, value, components)}"


def _required(path: KeyPath, field: FieldInfo | None, components: Components) -> str:
    model = model_for(path, components)
    keys = [name for name, inner in model.model_fields.items() if inner.is_required()] if model else []
    return (f": {describe_field(field)}" if field else "") + (f" with {comma_separated(keys)}" if keys else "")


def _unknown_key(path: KeyPath, raw: RawRecipe, components: Components) -> str:
    """Describe an unknown key: the keys of its table, a similar one, or another table that has it."""
    table, key = path[:-1], str(path[-1])
    model = model_for(table, components)
    if model is None:
        return "unknown key"
    for name, field in model.model_fields.items():
        names = aliases(name, field)
        if key in names:
            other = next(k for k in names if k != key and k in raw.value(table))
            return f"is an alias of {other}, which is set too; keep one"
    owner = repr(model.model_fields["name"].default) if table in components else f"[{format_key(table)}]"
    guess = did_you_mean(key, known_keys(model))
    if not guess:
        tables = (name for name in (*Recipe.model_fields, "train.budget") if _has_key(name, key, components))
        guess = next((f" (did you mean {name}.{key}?)" for name in tables), "")
    return f"unknown key; {owner if table else 'a recipe'} takes {comma_separated(known_keys(model))}{guess}"


def _has_key(table: str, key: str, components: Components) -> bool:
    model = model_for(tuple(table.split(".")), components)
    return model is not None and key != "name" and key in known_keys(model)


def _suggestion(path: KeyPath, field: FieldInfo, value: Any, components: Components) -> str:
    """Suggest a similar allowed word, or the same value with the right type."""
    if isinstance(value, str) and (near := did_you_mean(value, literals(field.annotation))):
        return near
    model = model_for(path[:-1], components)
    valid = next((v for v in _converted(value) if _is_valid(model, path[-1], field, v)), None)
    return "" if valid is None else f" (did you mean {format_value(valid)}?)"


def _is_valid(model: type[BaseModel] | None, key: str | int, field: FieldInfo, value: Any) -> bool:
    annotation: Any = field.annotation
    for rule in field.metadata:
        annotation = Annotated[annotation, rule]
    try:
        if model:  # with its validators
            model.model_validate_json(to_json({key: value}), strict=True)
        else:
            TypeAdapter(annotation).validate_json(to_json(value), strict=True)
    except ValidationError as error:  # other keys may be missing
        return model is not None and all(details["loc"][:1] not in ((key,), ()) for details in error.errors())
    except Exception:  # raised by a plugin's validator
        return False
    return True


def _converted(value: Any) -> Sequence[Any]:
    """Convert a value to the types that it may have been meant to have."""
    if isinstance(value, str):
        try:
            parsed = tomllib.loads(f"value = {value.lower()}")["value"]
        except (ValueError, RecursionError):
            return [[value]]
        finite = isinstance(parsed, int) or (isinstance(parsed, float) and math.isfinite(parsed))
        return [parsed, [value]] if finite else [[value]]
    if isinstance(value, float) and value.is_integer():
        return [int(value), [value]]
    if isinstance(value, list):
        return value if len(value) == 1 and not isinstance(value[0], dict) else []
    return [] if isinstance(value, dict) else [str(format_value(value)), [value]]
