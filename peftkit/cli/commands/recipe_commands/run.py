"""``peftkit run``."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from peftkit import plugins
from peftkit.cli.arguments import add_recipe
from peftkit.cli.subcommand import SubCommand
from peftkit.garbage_collection import paused_gc


class RunCommand(SubCommand):
    """Trains and evaluates a recipe."""

    name = "run"
    help = "Train and evaluate a recipe."
    examples = (
        ("Train LoRA on a built-in model and task", "peftkit run recipes/quickstart.toml"),
        ("Resume the latest run of that recipe", "peftkit run recipes/quickstart.toml --resume"),
    )
    json_help = "Print the scores and costs as JSON; progress goes to standard error."
    writes_files = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_recipe(parser)
        parser.add_argument(
            "--resume",
            metavar="RUN",
            nargs="?",
            const="",
            help="Resume a run directory; without RUN, the latest run of this recipe.",
        )

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.recipe import load_recipe

        registry = plugins.load_registry()
        recipe = load_recipe(args.recipe, registry, args.overrides)
        with paused_gc():
            from peftkit.train.run import run  # imports torch: only once the recipe is valid
            from peftkit.train.wall_clock import process_start

        with ExitStack() as stack:
            stack.enter_context(_progress_stream(args, stack))
            started = process_start()
            path = run(recipe, registry, log_level=args.log_level, resume=args.resume, started=started)
        if path is not None and args.json:  # None on all processes but the main one
            self.print_json(_document(path))
        elif path is not None and args.quiet:
            print(path)
        return 0


def _progress_stream(args: argparse.Namespace, stack: ExitStack) -> AbstractContextManager[Any]:
    """Redirects what the runner prints: nowhere with ``--quiet``, to standard error with ``--json``."""
    if args.quiet:
        return redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8")))
    return redirect_stdout(sys.stderr) if args.json else nullcontext()


def _document(path: Path) -> dict[str, Any]:
    from peftkit.run_directory import RunDirectory

    summary = RunDirectory(path).summary()
    selected = summary.get("selected", {})
    return {
        "run": str(path),
        "status": summary.get("status"),
        "steps": summary.get("steps"),
        "selection_metric": summary.get("selection_metric"),
        "selected": {
            key: selected[key]
            for key in ("step", "dev", "test", *summary.get("evaluation_sets", ()))
            if key in selected
        },
        "cost": summary.get("cost", {}),
    }
