"""``peftkit init``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit import plugins
from peftkit.atomic_files import write_file
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError

if TYPE_CHECKING:
    from peftkit.analysis.recipe_draft import Draft, TaskCandidate
    from peftkit.plugins import Registry

SCHEMA_FILE = "recipe.schema.json"


class InitCommand(SubCommand):
    """Writes a recipe and a sweep for a user's data."""

    name = "init"
    help = "Look at your data, and write a recipe and a sweep that compares methods on them."
    examples = (
        ("Ask what the columns are for", "peftkit init reviews.csv --model pocket-encoder"),
        ("Ask nothing, and plan for twenty minutes", "peftkit init reviews.csv --within 20min --yes"),
    )
    writes_files = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("data", metavar="DATA", help="A file, a folder with a file per split, or a hub dataset.")
        parser.add_argument("--model", help="Model on the hub, or a folder. [default: a built-in one for the task]")
        parser.add_argument("--within", metavar="TIME", help="Time for the whole comparison, such as 20min or 2h.")
        parser.add_argument("--name", help="Name of the recipe. [default: the name of DATA]")
        parser.add_argument(
            "--in", dest="folder", metavar="FOLDER", default=".", help="Where to write. [default: the current folder]"
        )
        parser.add_argument("-y", "--yes", action="store_true", help="Ask nothing, and take what fits best.")

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.analysis.recipe_draft import complete_candidate, default_name, find_candidates, model_for
        from peftkit.recipe.json_schema import recipe_schema

        registry = plugins.load_registry()
        if args.within is not None:
            from peftkit.sweep.within.duration_text import parse_duration

            parse_duration(args.within)
        folder, name = Path(args.folder), args.name or default_name(args.data)
        paths = [folder / f"{name}.toml", folder / f"{name}_sweep.toml"]
        if existing := next((path for path in paths if path.exists()), None):
            raise InputError(f"{str(existing)!r} already exists; choose another name with --name")
        candidates = find_candidates(args.data, registry)
        ask = not args.yes and not args.json and sys.stdin.isatty()
        chosen = _choose_task(candidates) if ask else candidates[0]
        default = model_for(chosen.kind, registry)
        model = args.model or (_ask("Model", default) if ask else default)
        within = args.within or (_ask("Time for the comparison, such as 20min; empty for no limit", "") if ask else "")
        chosen = complete_candidate(chosen, registry)
        draft = _draft(name, model, chosen, registry)
        _write(folder / SCHEMA_FILE, json.dumps(recipe_schema(registry), indent=2) + "\n")
        for path, text in zip(paths, (draft.recipe, draft.sweep), strict=True):
            _write(path, text)
        _check(paths, registry)
        commands = [
            shlex.join(["peftkit", "run", str(paths[0])]),
            shlex.join(["peftkit", "sweep", str(paths[1]), *(["--within", within] if within else [])]),
        ]
        if args.json:
            match = chosen.match
            self.print_json(
                {
                    "task": chosen.name,
                    "reason": match.reason,
                    "options": match.options,
                    "model": model,
                    "methods": draft.methods,
                    "files": [str(path) for path in paths],
                    "commands": commands,
                }
            )
        elif args.quiet:
            print(paths[0])
        else:
            print(f"{args.data}: {chosen.name}, because {chosen.match.reason}")
            print(f"wrote {paths[0]} and {paths[1]}, which compares {', '.join(draft.methods)}; both are valid. Next:")
            print("\n".join(commands))
        return 0


def _draft(name: str, model: str, chosen: TaskCandidate, registry: Registry) -> Draft:
    """Writes the texts, with limits of lengths that the data need."""
    from peftkit.analysis.recipe_draft import draft_recipe, sensible_methods

    methods = sensible_methods(model, chosen.kind, registry)
    if not methods:
        raise InputError(f"no installed method supports {model!r} with {chosen.name}")
    first = draft_recipe(name, model, chosen, methods, schema=f"./{SCHEMA_FILE}")
    lengths = _measure_lengths(first.recipe, registry)
    return draft_recipe(name, model, chosen, methods, schema=f"./{SCHEMA_FILE}", **lengths)


def _measure_lengths(text: str, registry: Registry) -> dict[str, int]:
    """Returns limits that keep the longest texts of the sampled rows."""
    import tempfile

    from peftkit.recipe import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        recipe = load_recipe(path, registry, ())
    from peftkit.analysis.recipe_draft import round_length
    from peftkit.analysis.task_preview import preview_task  # imports transformers

    splits = preview_task(recipe, "train", 1, reports=False)["splits"].values()
    longest = {side: max(split["lengths"][side]["longest"] for split in splits) for side in ("source", "target")}
    return {f"max_{side}_length": round_length(tokens) for side, tokens in longest.items() if tokens}


def _check(paths: Sequence[Path], registry: Registry) -> None:
    """Raises if the recipe or a run of the sweep is invalid."""
    from peftkit.errors import RecipeError
    from peftkit.recipe.check_recipe import check_recipe
    from peftkit.sweep.tuning.tuning_stages import load_grid

    report = check_recipe(paths[0], registry)
    if report.errors:
        raise RecipeError(report.errors)
    load_grid(paths[1], registry)


def _choose_task(candidates: Sequence[TaskCandidate]) -> TaskCandidate:
    """Asks which of the tasks is meant."""
    if len(candidates) == 1:
        return candidates[0]
    for number, candidate in enumerate(candidates, 1):
        print(f"  {number}. {candidate.name}: {candidate.match.reason}", file=sys.stderr)
    answer = _ask("What should the model learn?", "1")
    if not answer.isdigit() or not 1 <= int(answer) <= len(candidates):
        raise InputError(f"{answer!r} is not a number from 1 to {len(candidates)}")
    return candidates[int(answer) - 1]


def _ask(question: str, default: str) -> str:
    """Asks for a text; an empty answer is the default."""
    print(f"{question}{f' [{default}]' if default else ''}: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() or default


def _write(path: Path, text: str) -> None:
    """Writes a file; see ``write_file`` for errors."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
