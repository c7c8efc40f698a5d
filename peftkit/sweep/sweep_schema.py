"""The JSON Schema of a sweep's file."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

from peftkit.atomic_files import write_file
from peftkit.plugins import Registry
from peftkit.recipe.json_schema import RECIPE_TABLES, SchemaWithDescriptions, recipe_schema
from peftkit.sweep.sweep_file import SweepConfig

RECIPE_FILE, SWEEP_FILE = "recipe.schema.json", "sweep.schema.json"


def sweep_schema(registry: Registry) -> dict[str, Any]:
    """Build a JSON Schema (draft 2020-12) with which editors validate and complete the files of sweeps.

    Recipe keys in quotes (``"train.learning_rate"``) are accepted as they are.

    Args:
        registry: The installed components.
    """
    recipe = recipe_schema(registry)
    schema = SweepConfig.model_json_schema(schema_generator=SchemaWithDescriptions)
    schema["title"] = "peftkit sweep"
    schema["$defs"] = {**recipe["$defs"], **schema.get("$defs", {})}
    # Each table sets some keys of a recipe.
    tables = {name: rule for name, rule in recipe["properties"].items() if name in RECIPE_TABLES}
    changes = {"type": "object", "properties": tables}
    for table in (schema["properties"]["set"], schema["$defs"]["TuneConfig"]["properties"]["set"]):
        table |= changes
    methods = copy.deepcopy(recipe["properties"]["method"])
    names = methods.get("properties", {}).get("name", {}).get("enum")
    if names:
        names.append("all")
    by_type = {"if": {"type": "object"}, "then": methods, "else": {"enum": names} if names else {}}
    schema["properties"]["axes"]["properties"] = {
        "method": {"type": "array", "items": by_type, "description": "Methods by name, or tables with options."},
        "seed": {"type": "array", "items": {"type": "integer"}, "description": "Seeds of the final runs."},
    }
    return {"$schema": recipe["$schema"], **schema}


def write_schemas(folder: Path, registry: Registry) -> tuple[Path, Path]:
    """Write the schemas of recipes and sweeps, to which the first line of such a file may refer.

    Args:
        folder: The folder.
        registry: The installed components.

    Returns:
        The files, of recipes and of sweeps.
    """
    paths = folder / RECIPE_FILE, folder / SWEEP_FILE
    for path, schema in zip(paths, (recipe_schema(registry), sweep_schema(registry)), strict=True):
        text = json.dumps(schema, indent=2) + "\n"
        write_file(path, partial(_write_text, text))
    return paths


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
