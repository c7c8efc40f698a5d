"""Validates a table of a recipe as the component that it names, with that component's options."""

from __future__ import annotations

import json
from typing import Any

from pydantic import PlainValidator, ValidationError, ValidationInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from peftkit.components import Component, Metric, Objective, Task
from peftkit.errors import PluginError, comma_separated, summarize_error
from peftkit.plugins import Kind, Registry

LISTED: tuple[Kind, ...] = ("metric", "callback")
"""Kinds of which a recipe has a list of tables."""
FOR_TASKS: tuple[Kind, ...] = ("objective", "metric")
"""Kinds whose components suit some kinds of tasks only."""


def component_validator(kind: Kind) -> PlainValidator:
    """Validate a table as the component that it names; the registry is the validation context."""

    def validate(value: Any, info: ValidationInfo) -> Component:
        if isinstance(value, Component):
            return value
        context = info.context or {}
        if value is None and context.get("partial"):  # in the place of an invalid component
            return None  # type: ignore[return-value]
        registry: Registry = context["registry"]
        known = _suitable_names(kind, registry, info.data.get("task"))
        if not isinstance(value, dict):
            example = value if value in known else next(iter(known), "…")
            header = f"[[{kind}]]" if kind in LISTED else f"[{kind}]"
            raise _build_error((), value, f'must be a table: {header} and below it name = "{example}"')
        if "name" not in value:
            raise _build_error(("name",), value, f"missing; it is required, one of: {comma_separated(known)}")
        name = value["name"]
        if not isinstance(name, str):
            raise _build_error(("name",), name, f"must be in quotes, one of: {comma_separated(known)}")
        try:
            entry = registry.find(kind, name)
        except PluginError as error:
            raise _build_error(("name",), name, str(error)) from error
        try:
            return entry.component.class_for(value).model_validate_json(json.dumps(value), strict=True)
        except ValueError:  # of pydantic, and raised by validators
            raise
        except Exception as error:  # an error in a plugin's validator is reported like any other
            raise _build_error(
                (), value, f"{name!r} failed to validate its options: {summarize_error(error)}"
            ) from error

    return PlainValidator(validate, json_schema_input_type=dict[str, Any])


def _suitable_names(kind: Kind, registry: Registry, task: Any) -> list[str]:
    """Return the names of the components that suit the kind of a task; all names if the task is invalid."""
    entries = registry.all(kind)
    if not isinstance(task, Task) or kind not in FOR_TASKS:
        return list(entries)
    return [name for name, entry in entries.items() if _suits(entry.component, type(task).kind)]


def _suits(component: type[Component], task_kind: str) -> bool:
    if issubclass(component, Objective):
        return component.task_kind == task_kind
    return issubclass(component, Metric) and task_kind in component.kinds


def _build_error(path: tuple[str, ...], value: Any, text: str) -> ValidationError:
    kind = PydanticCustomError("component_name", "{text}", {"text": text})
    return ValidationError.from_exception_data("component", [InitErrorDetails(type=kind, loc=path, input=value)])
