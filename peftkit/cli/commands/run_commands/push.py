"""``peftkit push``."""

from __future__ import annotations

import argparse
from pathlib import Path

from peftkit import plugins
from peftkit.cli.arguments import add_run
from peftkit.cli.subcommand import SubCommand


class PushCommand(SubCommand):
    """Uploads a run's checkpoint to the Hugging Face Hub."""

    name = "push"
    help = "Push a finished run's checkpoint, with a model card, to the Hugging Face Hub."
    examples = (
        ("Push to a public repository", "peftkit push runs/quickstart-1 OWNER/my-adapter"),
        ("Push to a private one", "peftkit push runs/quickstart-1 OWNER/my-adapter --private"),
    )
    writes_files = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_run(parser)
        parser.add_argument("repository", metavar="OWNER/NAME", help="A repository; created if it does not exist.")
        parser.add_argument("--private", action="store_true", help="Create it as a private repository.")

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.inference.push import push
        from peftkit.monitor.verbosity import quiet_libraries

        quiet_libraries(args.log_level)
        url = push(Path(args.run), plugins.load_registry(), args.repository, private=args.private)
        if args.json:
            self.print_json({"url": url})
        else:
            print(url if args.quiet else f"pushed: {url}")
        return 0
