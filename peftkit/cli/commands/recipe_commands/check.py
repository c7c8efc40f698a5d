"""``peftkit check``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from peftkit import plugins
from peftkit.cli.arguments import add_overrides
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError, Problem, RecipeError

if TYPE_CHECKING:
    from peftkit.components import Task
    from peftkit.recipe import Recipe
    from peftkit.recipe.check_recipe import RecipeReport
    from peftkit.recipe.conflicts.find_conflicts import Conflict


class CheckCommand(SubCommand):
    """Checks recipes and their data without loading models."""

    name = "check"
    help = "Check recipes and their local data, without loading models."
    examples = (
        ("Check a recipe and its data", "peftkit check recipes/quickstart.toml"),
        ("Check several with another method", "peftkit check recipes/lora/*.toml --set method.name=ia3 --json"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("recipes", metavar="RECIPE", nargs="+", help="Recipes: TOML files.")
        add_overrides(parser, "Override a key of all recipes, such as train.batch_size=4. Repeatable.")
        parser.add_argument(
            "--data",
            action=argparse.BooleanOptionalAction,
            help="Check the task's data: also download hub datasets, or with --no-data not even local files. "
            "[default: local data only]",
        )

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.recipe.check_recipe import check_recipe

        registry = plugins.load_registry()
        errors: list[Problem] = []
        documents: list[dict[str, Any]] = []
        for path in args.recipes:
            further = partial(_further_conflicts, data=args.data)
            report = check_recipe(path, registry, args.overrides, data=args.data, further=further)
            errors += report.errors
            if args.json:
                documents.append(_document(path, report))
                continue
            for warning in report.warnings:
                self.notice(args, f"peftkit: warning: {warning}")
            if report.recipe and not args.quiet:
                print("{}: OK ({method} on {task}, {model})".format(path, **_names(report.recipe)), flush=True)
        if args.json:
            failures = [failure.as_json() for failure in registry.failures]
            self.print_json({"valid": not errors, "recipes": documents, "failures": failures}, version=3)
            return RecipeError.exit_code if errors else 0
        if errors:
            raise RecipeError(dict.fromkeys(errors))
        return 0


def _further_conflicts(recipe: Recipe, *, data: bool | None) -> Iterator[Conflict]:
    """Yields what needs torch or transformers to be found; data that are not on this machine are left out."""
    from peftkit.recipe.model_names import is_local_model

    yield from _optimizer_conflicts(recipe)
    strict = any(objective.refuses_long_rows for objective in recipe.objectives_for(None))
    if strict and data is not False and is_local_model(recipe.model.name) and (data or _has_local_data(recipe.task)):
        from peftkit.analysis.row_check import find_long_rows  # imports transformers

        yield from find_long_rows(recipe)


def _has_local_data(task: Task) -> bool:
    try:
        return all(file.exists() for file in task.data_files())
    except InputError:  # no file matches a pattern
        return False


def _optimizer_conflicts(recipe: Recipe) -> Iterator[Conflict]:
    if recipe.train.optimizer_options:
        from peftkit.train.optimizer import check_optimizer_options  # imports torch

        try:
            check_optimizer_options(recipe)
        except InputError as error:
            yield ("train", "optimizer_options"), str(error).removeprefix("train.optimizer_options: ")


def _names(recipe: Recipe) -> dict[str, str]:
    return {"method": recipe.method.name, "task": recipe.task.name, "model": recipe.model.name}


def _document(path: str, report: RecipeReport) -> dict[str, Any]:
    names = _names(report.recipe) if report.recipe else {}
    problems = {"errors": _as_json(report.errors), "warnings": _as_json(report.warnings)}
    return {"recipe": path, "valid": report.recipe is not None, **problems, **names}


def _as_json(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    return [{"file": p.file, "line": p.line, "key": p.key, "message": p.text} for p in problems]
