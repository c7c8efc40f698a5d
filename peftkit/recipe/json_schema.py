"""The JSON Schema of a recipe, with the options of every installed component."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Union

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.plugins import Kind, Registry
from peftkit.recipe.component_validation import LISTED
from peftkit.recipe.messages.type_names import aliases
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.tables.config_table import ConfigTable

RECIPE_TABLES = ("run", "model", "task", "method", "objective", "train", "evaluate", "track")
"""The tables of which a recipe has one."""


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
    schema = model.model_json_schema(schema_generator=SchemaWithDescriptions)
    schema["title"] = "peftkit recipe"
    schema["$defs"]["ModelConfig"].pop("required")
    for kind, rule in schema["properties"].items():
        if kind in LISTED:
            rule["items"] = {**_rule_by_name(rule["items"], schema["$defs"], kind), "required": ["name"]}
        elif kind in ("task", "method", "objective"):
            schema["properties"][kind] = _rule_by_name(rule, schema["$defs"], kind)
    # Required keys may come from the recipe that `extends` names.
    named = {"required": ["name"]}
    complete = {"required": schema.pop("required"), "properties": dict.fromkeys(("model", "task", "method"), named)}
    condition = {"if": {"not": {"required": ["extends"]}}, "then": complete}
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, **condition}


class SchemaWithDescriptions(GenerateJsonSchema):
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


def _rule_by_name(union: Mapping[str, Any], definitions: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the rule of a component's table: its ``name`` decides which options it may have.

    An editor then shows the one wrong key. Of a plain union it would show that no arm of it fits.

    Args:
        union: The rule that pydantic makes: references to all components of a kind.
        definitions: The rules that it refers to.
        kind: The kind of component.
    """
    arms = [arm for arm in union.get("anyOf", [union]) if "$ref" in arm]
    if not arms:
        return dict(union)
    by_name = {definitions[arm["$ref"].rsplit("/", 1)[1]]["properties"]["name"]["const"]: arm for arm in arms}
    names = {"enum": sorted(by_name), "description": f"The {kind}; its options are the other keys of the table."}
    conditions = [
        {"if": {"properties": {"name": {"const": name}}, "required": ["name"]}, "then": arm}
        for name, arm in by_name.items()
    ]
    return {"type": "object", "properties": {"name": names}, "allOf": conditions}


def _union_of_components(registry: Registry, kind: Kind) -> Any:
    classes = tuple(entry.component for entry in registry.all(kind).values())
    return Union[classes] if classes else dict[str, Any]  # noqa: UP007 - built at run time
