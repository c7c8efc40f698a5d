"""``peftkit import``."""

from __future__ import annotations

import argparse
from pathlib import Path

from peftkit.cli.subcommand import SubCommand


class ImportCommand(SubCommand):
    """Converts results of other systems into run directories."""

    name = "import"
    help = "Import results of other systems as run directories, to compare and plot them."
    examples = (
        ("Import results of PEFT-by-time", "peftkit import peft-by-time LORA_ag_news.json"),
        ("Choose the folder", "peftkit import peft-method-comparison results.json -o runs/peft"),
    )
    writes_files = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("system", choices=["peft-by-time", "peft-method-comparison"], help="Origin of the results.")
        parser.add_argument("files", metavar="FILE", nargs="+", help="Result files.")
        parser.add_argument(
            "-o", "--output", default="runs/imported", help="Folder of the run directories. [default: runs/imported]"
        )

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.compare.input.importers import import_file

        imported = []
        for file in args.files:
            imported.append(str(import_file(args.system, Path(file), Path(args.output))))
            if not args.json:
                print(imported[-1], flush=True)
        if args.json:
            self.print_json({"runs": imported})
        return 0
