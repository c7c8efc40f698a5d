"""The JSON Schema of a recipe, with every installed component's options."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import Field, TypeAdapter, create_model

from peftkit.plugins import Kind, Registry
from peftkit.recipe.tables import Recipe, Table


def recipe_schema(registry: Registry) -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) that an editor can check and complete recipes with."""
    fields: dict[str, Any] = {
        "extends": (str | None, Field(default=None, description="A recipe to build on, relative to this file.")),
        "task": (_union(registry, "task"), ...),
        "method": (_union(registry, "method"), ...),
        "metric": (list[_union(registry, "metric")], Field(default=[])),  # type: ignore[misc]
    }
    for key, field in Recipe.model_fields.items():
        if key not in fields:
            fields[key] = (field.annotation, field)
    # With `extends`, any table may come from below: only what a file does say can be checked.
    model = create_model("Recipe", __base__=Table, **fields)
    schema = model.model_json_schema(mode="validation")
    schema.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "peftkit recipe"}


def _union(registry: Registry, kind: Kind) -> Any:
    classes = tuple(entry.component for entry in registry.of(kind).values())
    if len(classes) < 2:
        return classes[0] if classes else dict[str, Any]
    return Annotated[Union[classes], Field(discriminator="name")]  # noqa: UP007 - built at run time


def options_schema(component: type) -> dict[str, Any]:
    """The JSON Schema of one component's options."""
    return TypeAdapter(component).json_schema()
