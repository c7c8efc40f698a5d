"""The JSON Schema of a recipe, with every installed component's options."""

from __future__ import annotations

from typing import Any, Union

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from peftkit.plugins import Kind, Registry
from peftkit.recipe.tables import Recipe, Table
from peftkit.recipe.words import spellings


def recipe_schema(registry: Registry) -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) that an editor can check and complete recipes with."""
    metrics: Any = list[_union(registry, "metric")]  # type: ignore[misc]
    fields: dict[str, Any] = {
        "extends": (str, Field(default="", description="A recipe to build on, relative to this file.")),
        "task": (_union(registry, "task"), ...),
        "method": (_union(registry, "method"), ...),
        "metric": (metrics, Field(default=[])),
    }
    for key, field in Recipe.model_fields.items():
        if key not in fields:
            fields[key] = (field.annotation, field)
    model = create_model("Recipe", __base__=Table, **fields)
    schema = model.model_json_schema(schema_generator=_Spelt)
    schema["title"] = "peftkit recipe"
    schema["$defs"]["ModelTable"].pop("required")
    schema["properties"]["metric"]["items"]["required"] = ["name"]
    # With `extends` any of this may come from below.
    named = {"required": ["name"]}
    whole = {"required": schema.pop("required"), "properties": dict.fromkeys(("model", "task", "method"), named)}
    alone = {"if": {"not": {"required": ["extends"]}}, "then": whole}
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, **alone}


class _Spelt(GenerateJsonSchema):
    """Lists every spelling of an option; pydantic lists the first."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        described = super().model_schema(schema)
        properties = described.get("properties", {})
        model: type[BaseModel] = schema["cls"]
        for name, field in model.model_fields.items():
            ways = spellings(name, field)
            first = next((properties[way] for way in ways if way in properties), None)
            properties |= {way: first for way in ways if first is not None}
        return described


def _union(registry: Registry, kind: Kind) -> Any:
    classes = tuple(entry.component for entry in registry.of(kind).values())
    return Union[classes] if classes else dict[str, Any]  # noqa: UP007 - built at run time
