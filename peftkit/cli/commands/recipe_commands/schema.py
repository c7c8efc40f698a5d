"""``peftkit schema``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from peftkit import plugins
from peftkit.cli.subcommand import SubCommand


class SchemaCommand(SubCommand):
    """Prints or writes the JSON Schemas of recipes and sweeps."""

    name = "schema"
    help = "Print the JSON Schema of a recipe or a sweep, with the options of every installed component."
    examples = (
        ("Write both schemas for an editor, again after installing a plugin", "peftkit schema --write"),
        ("Print the schema of a sweep", "peftkit schema sweep"),
    )
    json_help = "Accepted as by other commands; a schema is always JSON."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        kinds = ("recipe", "sweep")
        parser.add_argument("kind", nargs="?", choices=kinds, default="recipe", help="What to print the schema of.")
        parser.add_argument(
            "--write",
            nargs="?",
            const=".",
            metavar="FOLDER",
            help="Write recipe.schema.json and sweep.schema.json to a folder. [default: this one]",
        )

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.recipe.json_schema import recipe_schema
        from peftkit.sweep.sweep_schema import sweep_schema, write_schemas

        registry = plugins.load_registry()
        if args.write is not None:
            for path in write_schemas(Path(args.write), registry):
                print(path)
            return 0
        schema = recipe_schema(registry) if args.kind == "recipe" else sweep_schema(registry)
        print(json.dumps(schema, indent=2))
        return 0
