"""``peftkit list``."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Sequence

from peftkit import plugins
from peftkit.cli.subcommand import SubCommand


class ListCommand(SubCommand):
    """Lists components."""

    name = "list"
    help = "List the installed methods, tasks, metrics, meters and callbacks."
    examples = (
        ("List everything", "peftkit list"),
        ("List the methods as JSON", "peftkit list methods --json"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        kinds = [f"{kind}s" for kind in plugins.BASE_CLASSES]
        parser.add_argument("kind", nargs="?", choices=kinds, help="List only this kind.")

    def run(self, args: argparse.Namespace) -> int:
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
