"""``peftkit check``."""

from __future__ import annotations

import argparse

from peftkit import plugins
from peftkit.cli.arguments import add_recipe
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import RecipeError


class CheckCommand(SubCommand):
    """Validates a recipe without importing torch."""

    name = "check"
    help = "Validate a recipe without loading data or models."
    examples = (
        ("Check a recipe", "peftkit check recipes/quickstart.toml"),
        ("Check it with another method", "peftkit check recipes/quickstart.toml --set method.name=ia3 --json"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_recipe(parser)

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.recipe import load_recipe

        try:
            recipe = load_recipe(args.recipe, plugins.load_registry(), args.overrides)
        except RecipeError as error:
            if not args.json:
                raise
            errors = [{"file": p.file, "line": p.line, "key": p.key, "message": p.text} for p in error.problems]
            self.print_json({"recipe": args.recipe, "valid": False, "errors": errors})
            return error.exit_code
        names = {"method": recipe.method.name, "task": recipe.task.name, "model": recipe.model.name}
        if args.json:
            self.print_json({"recipe": args.recipe, "valid": True, "errors": [], **names})
        elif not args.quiet:
            print("{recipe}: OK ({method} on {task}, {model})".format(recipe=args.recipe, **names))
        return 0
