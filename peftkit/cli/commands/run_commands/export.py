"""``peftkit export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from peftkit import plugins
from peftkit.cli.arguments import add_run
from peftkit.cli.subcommand import SubCommand


class ExportCommand(SubCommand):
    """Copies a run's checkpoint in the format of the method's library."""

    name = "export"
    help = "Export a finished run's checkpoint in its library's format, with a model card."
    examples = (
        ("Export an adapter that peft can load", "peftkit export runs/quickstart-1 adapter"),
        ("Print only the folder", "peftkit export runs/quickstart-1 adapter --quiet"),
    )
    writes_files = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_run(parser)
        parser.add_argument("out", metavar="OUT", help="A new or empty folder.")

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.inference.export import export
        from peftkit.monitor.verbosity import quiet_libraries

        quiet_libraries(args.log_level)
        export(Path(args.run), plugins.load_registry(), Path(args.out))
        if args.json:
            self.print_json({"checkpoint": args.out})
        else:
            print(args.out if args.quiet else f"exported to {args.out}")
        return 0
