"""The JSON Schema of a recipe, with the options of every installed component."""

from __future__ import annotations

import copy
from typing import Any, Union

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.plugins import Kind, Registry
from peftkit.recipe.component_validation import LISTED
from peftkit.recipe.messages.type_names import aliases
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.sections.config_table import ConfigTable


def recipe_schema(registry: Registry) -> dict[str, Any]:
    """Build a JSON Schema (draft 2020-12) with which editors validate and complete recipes."""
    lists: dict[str, Any] = {kind: list[_union_of_components(registry, kind)] for kind in LISTED}  # type: ignore[misc]
    fields: dict[str, Any] = {
        "extends": (str, Field(default="", description="A recipe to build on, relative to this file.")),
        "task": (_union_of_components(registry, "task"), ...),
        "method": (_union_of_components(registry, "method"), ...),
        "objective": (_union_of_components(registry, "objective") | None, Field(default=None)),
        **{kind: (annotation, Field(default=[])) for kind, annotation in lists.items()},
    }
    texts = option_descriptions(Recipe)
    for key, field in Recipe.model_fields.items():
        if key not in fields:
            described = copy.copy(field)
            described.description = texts[key]
            fields[key] = (field.annotation, described)
    model = create_model("Recipe", __base__=ConfigTable, **fields)
    schema = model.model_json_schema(schema_generator=_SchemaWithAliases)
    schema["title"] = "peftkit recipe"
    schema["$defs"]["ModelConfig"].pop("required")
    for kind in LISTED:
        schema["properties"][kind]["items"]["required"] = ["name"]
    # Required keys may come from the recipe that `extends` names.
    named = {"required": ["name"]}
    complete = {"required": schema.pop("required"), "properties": dict.fromkeys(("model", "task", "method"), named)}
    condition = {"if": {"not": {"required": ["extends"]}}, "then": complete}
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, **condition}


class _SchemaWithAliases(GenerateJsonSchema):
    """Describes the options, and lists all aliases of one; pydantic lists the first only."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        result = super().model_schema(schema)
        properties = result.get("properties", {})
        model: type[BaseModel] = schema["cls"]
        texts = option_descriptions(model)
        for name, field in model.model_fields.items():
            names = aliases(name, field)
            first = next((properties[alias] for alias in names if alias in properties), None)
            if first is not None and texts[name]:
                first["description"] = texts[name]
            properties |= {alias: first for alias in names if first is not None}
        return result


def _union_of_components(registry: Registry, kind: Kind) -> Any:
    classes = tuple(entry.component for entry in registry.all(kind).values())
    return Union[classes] if classes else dict[str, Any]  # noqa: UP007 - built at run time
