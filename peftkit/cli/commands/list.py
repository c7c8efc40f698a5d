"""``peftkit list``."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

from peftkit import plugins
from peftkit.cli.subcommand import SubCommand
from peftkit.components import Preset

KINDS = ("methods", "presets", "tasks", "objectives", "metrics", "meters", "callbacks")


class ListCommand(SubCommand):
    """Lists components and presets."""

    name = "list"
    help = "List the installed methods, presets, tasks, objectives, metrics, meters and callbacks, or the plugins."
    examples = (
        ("List the methods as JSON", "peftkit list methods --json"),
        ("List the installed plugins", "peftkit list --plugins"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        content = parser.add_mutually_exclusive_group()
        content.add_argument("kind", nargs="?", choices=KINDS, help="List only this kind.")
        content.add_argument(
            "--plugins", action="store_true", help="List plugins with their versions, licences and errors."
        )

    def run(self, args: argparse.Namespace) -> int:
        if args.plugins:
            return self._list_plugins(args)
        registry = plugins.load_registry()
        entries = [entry for entry in registry.entries if args.kind in (None, _kind(entry))]
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
            failures = [failure.as_json() for failure in registry.failures]
            self.print_json({"components": components, "failures": failures}, version=3)
        elif entries:
            _print_table(entries)
        else:
            print(f"no {args.kind} are installed; plugins register them")
        return 0

    def _list_plugins(self, args: argparse.Namespace) -> int:
        installed = plugins.list_plugins()
        if args.json:
            documents = [
                {
                    "plugin": plugin.name,
                    "distribution": plugin.distribution,
                    "version": plugin.version,
                    "licence": plugin.licence,
                    "components": [{"kind": entry.kind, "name": entry.name} for entry in plugin.entries],
                    "excluded": plugin.is_excluded,
                    "error": "; ".join(_errors(plugin)),
                }
                for plugin in installed
            ]
            self.print_json({"plugins": documents}, version=2)
            return 0
        rows = [(plugin.name, plugin.version, plugin.licence or "no licence", _state(plugin)) for plugin in installed]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]  # the built-in ones are always there
        for *cells, state in rows:
            print("  ".join([*(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=False)), state]))
        return 0


def _state(plugin: plugins.Plugin) -> str:
    if plugin.is_excluded:
        return "excluded by PEFTKIT_PLUGINS"
    counts = Counter(_kind(entry) for entry in plugin.entries)
    texts = [f"{counts[kind]} {kind if counts[kind] > 1 else kind.removesuffix('s')}" for kind in KINDS if counts[kind]]
    texts += [f"{name} needs {method}, which is not installed" for name, method in plugin.unavailable.items()]
    if not texts and not plugin.failures:
        return "no components"
    return "; ".join([*filter(None, [", ".join(texts)]), *(f"error: {text}" for text in _errors(plugin))])


def _errors(plugin: plugins.Plugin) -> list[str]:
    return [": ".join(filter(None, [failure.part, failure.error])) for failure in plugin.failures]


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
