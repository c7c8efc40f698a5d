"""``peftkit schema``."""

from __future__ import annotations

import argparse
import json

from peftkit import plugins
from peftkit.cli.subcommand import SubCommand


class SchemaCommand(SubCommand):
    """Prints the JSON Schema of recipes."""

    name = "schema"
    help = "Print the JSON Schema of a recipe, with the options of every installed component."
    examples = (
        ("Save the schema for an editor", "peftkit schema > recipe.schema.json"),
        ("Print it", "peftkit schema"),
    )
    json_help = "Accepted as by other commands; the schema is always JSON."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        pass

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.recipe.json_schema import recipe_schema

        print(json.dumps(recipe_schema(plugins.load_registry()), indent=2))
        return 0
