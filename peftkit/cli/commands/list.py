"""``peftkit list``."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections import Counter
from collections.abc import Sequence

from peftkit import plugins
from peftkit.cli.subcommand import SubCommand


class ListCommand(SubCommand):
    """Lists components."""

    name = "list"
    help = "List the installed methods, tasks, metrics and meters, or the plugins."
    examples = (
        ("List the methods as JSON", "peftkit list methods --json"),
        ("List the installed plugins", "peftkit list --plugins"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        kinds = [f"{kind}s" for kind in plugins.BASE_CLASSES]
        content = parser.add_mutually_exclusive_group()
        content.add_argument("kind", nargs="?", choices=kinds, help="List only this kind.")
        content.add_argument(
            "--plugins", action="store_true", help="List plugins with their versions, licences and errors."
        )

    def run(self, args: argparse.Namespace) -> int:
        if args.plugins:
            return self._list_plugins(args)
        registry = plugins.load_registry()
        entries = [entry for entry in registry.entries if args.kind in (None, f"{entry.kind}s")]
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
                }
                for entry in entries
            ]
            failures = [{"plugin": failure.plugin, "error": failure.error} for failure in registry.failures]
            self.print_json({"components": components, "failures": failures}, version=2)
        else:
            _print_table(entries)
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
                    "error": plugin.error,
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
    if plugin.error:
        return f"error: {plugin.error}"
    counts = Counter(entry.kind for entry in plugin.entries)
    return ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in counts.items()) or "no components"


def _print_table(entries: Sequence[plugins.Entry]) -> None:
    name_width = max((len(entry.name) for entry in entries), default=0)
    distribution_width = max((len(entry.distribution) for entry in entries), default=0)
    summary_width = max(shutil.get_terminal_size().columns - name_width - distribution_width - 6, 30)
    for kind in plugins.BASE_CLASSES:
        of_kind = [entry for entry in entries if entry.kind == kind]
        if of_kind:
            print(f"{kind}s")
        for entry in of_kind:
            summary = textwrap.shorten(entry.summary, summary_width, placeholder=" …")
            print(f"  {entry.name:{name_width}}  {entry.distribution:{distribution_width}}  {summary}")
