"""``peftkit explain``."""

from __future__ import annotations

import argparse

from peftkit import plugins
from peftkit.cli.arguments import add_overrides
from peftkit.cli.subcommand import SubCommand


class ExplainCommand(SubCommand):
    """Explains what a recipe does."""

    name = "explain"
    help = "Explain what a recipe does, and all its settings and defaults."
    examples = (
        ("Explain a recipe", "peftkit explain recipes/quickstart.toml"),
        ("List its settings as JSON", "peftkit explain recipes/quickstart.toml --json"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("recipe", metavar="RECIPE", help="A recipe: a TOML file.")
        add_overrides(parser, "Override a key of the recipe, such as train.batch_size=4. Repeatable.")

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.analysis.recipe_explanation import explain_recipe, explanation_text
        from peftkit.recipe import load_recipe

        explained = explain_recipe(load_recipe(args.recipe, plugins.load_registry(), args.overrides))
        if args.json:
            self.print_json({"recipe": args.recipe, **explained}, version=1)
        else:
            print(explanation_text(explained))
        return 0
