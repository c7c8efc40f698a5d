"""pydantic's errors in a recipe author's words: file, line, key, what is allowed, what was probably meant."""

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

from peftkit.errors import did_you_mean, listed
from peftkit.recipe.positions import KeyPath
from peftkit.recipe.source import Source, dotted
from peftkit.recipe.tables import Recipe
from peftkit.recipe.words import (
    Components,
    allowed,
    field_at,
    fits_64_bits,
    keys_of,
    literals,
    model_at,
    shown,
    spellings,
    takes_dates,
)

Texts = dict[KeyPath, str]
"""What is wrong, by the path of the key: one text for each."""

_DATES = (datetime.date, datetime.time)  # a datetime is a date
_PYDANTIC = frozenset(get_args(core_schema.ErrorType)) - {"value_error", "assertion_error"}


def problems(error: ValidationError, source: Source, components: Components) -> Texts:
    """Where alternatives of a union fail each for itself, they are told as one."""
    found: Texts = {}
    for details in error.errors(include_url=False):
        path = _key_path(details, source.data)
        if path not in found:
            found[path] = _text(details, path, source, components)
    return found


def misfits(source: Source, components: Components) -> Texts:
    """What JSON, in which pydantic is strict, does not tell apart: dates from texts; and numbers beyond TOML's."""
    found: Texts = {}
    for path, value in _leaves(source.data, ()):
        field = field_at(path, components)
        if field is None and model_at(path[:-1], components):
            continue  # an unknown key, whatever its value
        if isinstance(value, int) and not fits_64_bits(value):
            found[path] = "is a number beyond 64 bits" + (f"; must be {allowed(field)}" if field else "")
        elif isinstance(value, _DATES) and field and not takes_dates(field.annotation):
            found[path] = f"must be {allowed(field)}, not the date {value}{_guess(path, field, value, components)}"
    return found


def as_json(data: Any) -> str:
    """The data of a recipe as JSON, for pydantic to validate."""
    return json.dumps(_plain(data))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, _DATES):
        return value.isoformat()
    if isinstance(value, int) and not fits_64_bits(value):  # reported already; it may be too long to be written
        return 2**62 if value > 0 else -(2**62)
    return value


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(inner, (*path, key))
    else:
        yield path, value


def _key_path(details: ErrorDetails, data: Any) -> KeyPath:
    """pydantic's location without the parts it adds for unions and tags, which are not in the recipe."""
    path: list[str | int] = []
    loc = details["loc"]
    for index, part in enumerate(loc):
        inside = part in (data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ())
        absent = isinstance(data, dict) and index == len(loc) - 1 and details["type"] in ("missing", "component_name")
        if not (inside or absent):
            break
        path.append(part)
        data = data[part] if inside else None
    return tuple(path)


def _text(details: ErrorDetails, path: KeyPath, source: Source, components: Components) -> str:
    kind, field = details["type"], field_at(path, components)
    exact = path[-1:] == details["loc"][-1:]  # else it is a place that pydantic sees and a recipe does not have
    if exact and kind == "extra_forbidden":
        return _unknown(path, source, components)
    if exact and kind == "missing":
        return f"missing; it is required{_required(path, field, components)}"
    if kind not in _PYDANTIC:  # a validator's own words
        return details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if path == ("metric",):
        return f"must be a list of tables, each under [[metric]], not {shown(source.value(path))}"
    value = source.value(path)
    if field is None:
        return f"{details['msg'][:1].lower()}{details['msg'][1:]}, not {shown(value)}"
    return f"must be {allowed(field)}, not {shown(value)}{_guess(path, field, value, components)}"


def _required(path: KeyPath, field: FieldInfo | None, components: Components) -> str:
    model = model_at(path, components)
    keys = [name for name, inner in model.model_fields.items() if inner.is_required()] if model else []
    return (f": {allowed(field)}" if field else "") + (f" with {listed(keys)}" if keys else "")


def _unknown(path: KeyPath, source: Source, components: Components) -> str:
    """An unknown key: what the table takes, what is near, or which other table takes it."""
    table, key = path[:-1], str(path[-1])
    model = model_at(table, components)
    if model is None:
        return "unknown key"
    for name, field in model.model_fields.items():
        if key in (ways := spellings(name, field)):
            other = next(k for k in ways if k != key and k in source.value(table))
            return f"means the same as {other}, which is set too; keep one"
    owner = repr(model.model_fields["name"].default) if table in components else f"[{dotted(table)}]"
    guess = did_you_mean(key, keys_of(model))
    if not guess:
        places = (name for name in (*Recipe.model_fields, "train.budget") if _takes(name, key, components))
        guess = next((f" (did you mean {place}.{key}?)" for place in places), "")
    return f"unknown key; {owner if table else 'a recipe'} takes {listed(keys_of(model))}{guess}"


def _takes(place: str, key: str, components: Components) -> bool:
    model = model_at(tuple(place.split(".")), components)
    return model is not None and key != "name" and key in keys_of(model)


def _guess(path: KeyPath, field: FieldInfo, value: Any, components: Components) -> str:
    """What was probably meant: a word near, or the same value written as the type that is wanted."""
    if isinstance(value, str) and (near := did_you_mean(value, literals(field.annotation))):
        return near
    model = model_at(path[:-1], components)
    right = next((c for c in _rewritten(value) if _takes_value(model, path[-1], field, c)), None)
    return "" if right is None else f" (did you mean {shown(right)}?)"


def _takes_value(model: type[BaseModel] | None, key: str | int, field: FieldInfo, value: Any) -> bool:
    kind: Any = field.annotation
    for rule in field.metadata:
        kind = Annotated[kind, rule]
    try:
        if model:  # with the validators of its own
            model.model_validate_json(as_json({key: value}), strict=True)
        else:
            TypeAdapter(kind).validate_json(as_json(value), strict=True)
    except ValidationError as error:  # that other keys are missing is no matter
        return model is not None and all(details["loc"][:1] not in ((key,), ()) for details in error.errors())
    except Exception:  # a plugin's validator that fails
        return False
    return True


def _rewritten(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        try:
            inner = tomllib.loads(f"value = {value.lower()}")["value"]
        except (ValueError, RecursionError):
            return [[value]]
        finite = isinstance(inner, int) or (isinstance(inner, float) and math.isfinite(inner))
        return [inner, [value]] if finite else [[value]]
    if isinstance(value, float) and value.is_integer():
        return [int(value), [value]]
    if isinstance(value, list):
        return value if len(value) == 1 and not isinstance(value[0], dict) else []
    return [] if isinstance(value, dict) else [str(shown(value)), [value]]
