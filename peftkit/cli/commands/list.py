"""``peftkit list``."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from peftkit import plugins
from peftkit.cli.subcommand import SubCommand
from peftkit.components import Preset

KINDS = ("methods", "presets", "tasks", "metrics", "meters")


class ListCommand(SubCommand):
    """Lists components and presets."""

    name = "list"
    help = "List the installed methods, presets, tasks, metrics, meters and callbacks."
    examples = (
        ("List everything", "peftkit list"),
        ("List the methods as JSON", "peftkit list methods --json"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("kind", nargs="?", choices=KINDS, help="List only this kind.")

    def run(self, args: argparse.Namespace) -> int:
        registry = plugins.load_registry()
        entries = [entry for entry in registry.entries if args.kind in (None, _kind(entry))]
        for failure in registry.failures:
            self.notice(args, f"warning: the plugin {failure.plugin} cannot be imported: {failure.error}")
        if args.json:
            components = [
                {
                    "kind": entry.kind,
                    "name": entry.name,
                    "distribution": entry.distribution,
                    "version": entry.version,
                    "summary": entry.summary,
                    **_describe_preset(entry.preset),
                }
                for entry in entries
            ]
            failures = [{"plugin": failure.plugin, "error": failure.error} for failure in registry.failures]
            self.print_json({"components": components, "failures": failures}, version=2)
        else:
            _print_table(entries)
        return 0


def _kind(entry: plugins.Entry) -> str:
    return "presets" if entry.preset else f"{entry.kind}s"


def _describe_preset(preset: Preset | None) -> dict[str, Any]:
    if preset is None:
        return {}
    options = {**preset.fixed, **preset.defaults}
    return {"preset_of": preset.method, "options": options, "recipe_keys": preset.recipe}


def _terminal_columns() -> int:
    """Return the width of the terminal; 0 for a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def _print_table(entries: Sequence[plugins.Entry]) -> None:
    """Print one line per component, wrapped in a terminal; pipes get whole lines."""
    name_width = max((len(entry.name) for entry in entries), default=0)
    distribution_width = max((len(entry.distribution) for entry in entries), default=0)
    indent = name_width + distribution_width + 6
    columns = _terminal_columns()
    for kind in KINDS:
        of_kind = [entry for entry in entries if _kind(entry) == kind]
        if of_kind:
            print(kind)
        for entry in of_kind:
            start = f"  {entry.name:{name_width}}  {entry.distribution:{distribution_width}}  "
            width = max(columns - indent, 30) if columns else sys.maxsize
            print(start + f"\n{' ' * indent}".join(textwrap.wrap(entry.summary, width, break_on_hyphens=False)))
