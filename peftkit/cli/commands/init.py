"""``peftkit init``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from glob import has_magic, iglob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import plugins
from peftkit.atomic_files import write_file
from peftkit.cli.subcommand import SubCommand
from peftkit.data_files import disk_file
from peftkit.errors import InputError

if TYPE_CHECKING:
    from peftkit.analysis.recipe_draft import Draft
    from peftkit.analysis.task_candidates import TaskCandidate
    from peftkit.plugins import Registry
    from peftkit.recipe import Recipe

MOST_BAD = "20%"
"""Share of rows that the model cannot represent from which the data are not for the model."""


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
        parser.add_argument(
            "data",
            metavar="DATA",
            help="A file, a folder with a file per split, a pattern in quotes, or a hub dataset.",
        )
        parser.add_argument("--model", help="Model on the hub, or a folder. [default: a built-in one for the task]")
        parser.add_argument("--within", metavar="TIME", help="Time for the whole comparison, such as 20min or 2h.")
        parser.add_argument("--name", help="Name of the recipe. [default: the name of DATA]")
        parser.add_argument(
            "--in", dest="folder", metavar="FOLDER", default=".", help="Where to write. [default: the current folder]"
        )
        parser.add_argument("-y", "--yes", action="store_true", help="Ask nothing, and take what fits best.")

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.analysis.recipe_draft import command, default_name, model_for
        from peftkit.analysis.task_candidates import (
            complete_candidate,
            describe_candidate,
            find_candidates,
            other_candidates,
            supported_candidates,
        )
        from peftkit.sweep.sweep_schema import write_schemas
        from peftkit.sweep.within.duration_text import parse_duration

        registry = plugins.load_registry()
        if args.within is not None:  # before anything is read
            parse_duration(args.within)
        folder, name = Path(args.folder), args.name or default_name(args.data)
        paths = [folder / f"{name}.toml", folder / f"{name}_sweep.toml"]
        if existing := next((path for path in paths if path.exists()), None):
            raise InputError(f"{str(existing)!r} already exists; choose another name with --name")
        candidates = find_candidates(_resolve(args.data, folder), registry)
        if args.model:
            candidates = supported_candidates(candidates, args.model, registry)
        ask = not args.yes and not args.json and sys.stdin.isatty()
        chosen = _choose_task(candidates) if ask else candidates[0]
        others = other_candidates(candidates, chosen)
        default = model_for(chosen.kind, registry)
        model = args.model or (_ask("Model", default) if ask else default)
        [chosen] = supported_candidates([chosen], model, registry)
        within = args.within or (_ask("Time for the comparison, such as 20min; empty for no limit", "") if ask else "")
        if within:
            parse_duration(within)
        chosen = complete_candidate(chosen, registry)
        draft = _Drafting(name, _resolve(model, folder), folder, others, registry).write(chosen)
        write_schemas(folder, registry)
        for path, text in zip(paths, (draft.recipe, draft.sweep), strict=True):
            _write(path, text)
        _check(paths, registry)
        commands = [
            command("run", paths[0]),
            command("sweep", paths[1], *(["--within", within] if within else [])),
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
                    "others": [
                        {"task": each.name, "reason": each.match.reason, "options": each.match.options}
                        for each in others
                    ],
                    "files": [str(path) for path in paths],
                    "commands": commands,
                }
            )
        elif args.quiet:
            print(paths[0])
        else:
            print(f"{args.data}: {chosen.name}, because {chosen.match.reason}")
            for other in others:
                print(f"it can also be read as {describe_candidate(other)}, because {other.match.reason}")
            print(f"wrote {paths[0]} and {paths[1]}, which compares {', '.join(draft.methods)}; both are valid. Next:")
            print("\n".join(commands))
        return 0


@dataclass(frozen=True)
class _Drafting:
    """How the texts for a task are written.

    Attributes:
        name: The name of recipe and sweep.
        model: The model's name or folder.
        folder: The folder that both are written to.
        others: Other ways to read the data.
        registry: The installed components.
    """

    name: str
    model: str
    folder: Path
    others: Sequence[TaskCandidate]
    registry: Registry

    def write(self, chosen: TaskCandidate) -> Draft:
        """Write the texts, with what the model needs, and limits of lengths that the data need."""
        from peftkit.analysis.recipe_draft import draft_recipe, sensible_methods, suggest_objective
        from peftkit.analysis.task_candidates import describe_skipped_rows, with_options

        methods = sensible_methods(self.model, chosen.kind, self.registry)
        if not methods:
            raise InputError(f"no installed method supports {self.model!r} with {chosen.name}")
        draft = partial(draft_recipe, self.name, self.model, methods=methods)
        suggested = suggest_objective(self._load(draft(chosen).recipe))
        draft = partial(draft, objective=suggested or None)
        try:
            preview = self._preview(draft(chosen).recipe)
        except InputError:  # such as a target that the tokenizer does not know
            if "on_bad_row" in chosen.match.options:
                raise
            trial = with_options(chosen, {"on_bad_row": "skip", "max_bad": MOST_BAD}, {})
            preview = self._preview(draft(trial).recipe)
            chosen = with_options(chosen, *describe_skipped_rows(preview))
        texts = {"with_schemas": True, "others": self.others, "folder": self.folder}
        return draft(chosen, **texts, **_limits(preview))

    def _load(self, text: str) -> Recipe:
        """Validates the text of a recipe."""
        import tempfile

        from peftkit.recipe import load_recipe

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.toml"
            path.write_text(text, encoding="utf-8")
            return load_recipe(path, self.registry, ())

    def _preview(self, text: str) -> dict[str, Any]:
        """Tokenizes rows of a recipe's task."""
        from peftkit.analysis.task_preview import preview_task  # imports transformers

        return preview_task(self._load(text), "train", 1, reports=False)


def _limits(preview: Mapping[str, Any]) -> dict[str, int]:
    """Returns limits that keep the longest texts of the sampled rows."""
    from peftkit.analysis.recipe_draft import round_length

    splits = preview["splits"].values()
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
    """Asks which of the tasks is meant, if several fit about equally well."""
    from peftkit.analysis.task_candidates import describe_candidate, doubtful_candidates

    candidates = doubtful_candidates(candidates)
    if len(candidates) == 1:
        return candidates[0]
    for number, candidate in enumerate(candidates, 1):
        print(f"  {number}. {describe_candidate(candidate)}: {candidate.match.reason}", file=sys.stderr)
    answer = _ask("What should the model learn?", "1")
    if not answer.isdigit() or not 1 <= int(answer) <= len(candidates):
        raise InputError(f"{answer!r} is not a number from 1 to {len(candidates)}")
    return candidates[int(answer) - 1]


def _resolve(path: str, folder: Path) -> str:
    """Returns the absolute path of local data or of a local model for recipes in another folder."""
    is_here = folder.resolve() == Path.cwd()
    is_local = disk_file(path).exists() or (has_magic(path) and any(iglob(path, recursive=True)))
    return str(Path(path).absolute()) if is_local and not is_here else path


def _ask(question: str, default: str) -> str:
    """Asks for a text; an empty answer is the default."""
    print(f"{question}{f' [{default}]' if default else ''}: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() or default


def _write(path: Path, text: str) -> None:
    """Writes a file; see ``write_file`` for errors."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
