"""``peftkit merge``."""

from __future__ import annotations

import argparse
from pathlib import Path

from peftkit import plugins
from peftkit.cli.arguments import add_run
from peftkit.cli.subcommand import SubCommand


class MergeCommand(SubCommand):
    """Writes a model with the trained parameters merged into its weights."""

    name = "merge"
    help = "Merge a finished run's trained parameters into its model, for from_pretrained."
    examples = (
        ("Write a plain transformers model", "peftkit merge runs/quickstart-1 merged"),
        ("Print the largest difference of the logits as JSON", "peftkit merge runs/quickstart-1 merged --json"),
    )
    writes_files = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_run(parser)
        parser.add_argument("out", metavar="OUT", help="A new or empty folder.")

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.inference.finished_run import load_finished_run
        from peftkit.inference.save_merged import save_merged
        from peftkit.monitor.verbosity import quiet_libraries

        quiet_libraries(args.log_level)
        difference = save_merged(load_finished_run(Path(args.run), plugins.load_registry()), Path(args.out))
        if args.json:
            self.print_json({"model": args.out, "largest_logit_difference": difference})
        elif args.quiet:
            print(args.out)
        else:
            print(f"merged into {args.out}; the logits differ by at most {difference:.1e}")
        return 0
