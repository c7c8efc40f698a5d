"""``peftkit serve``."""

from __future__ import annotations

import argparse
import errno
from functools import partial
from pathlib import Path

from peftkit.cli.arguments import add_cost_axis, add_fairness, add_metric, add_runs
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError

PORT = 8642


class ServeCommand(SubCommand):
    """Serves the report of runs on this machine, and updates it as they grow."""

    name = "serve"
    help = "Show the report and the progress of runs in a browser on this machine."
    examples = (
        ("Serve the runs of a folder", "peftkit serve runs"),
        ("Serve a sweep on any free port", "peftkit serve runs/pocket --port 0"),
    )
    json_help = None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_runs(parser)
        add_cost_axis(parser)
        add_metric(parser)
        add_fairness(parser)
        parser.add_argument("--title", default="PEFT methods by score and cost", help="Title of the report.")
        parser.add_argument("--port", type=_port, default=PORT, help=f"Port; 0 for any free one. [default: {PORT}]")

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.live.server import LiveReport, ReportServer

        folders = [*map(Path, args.runs)]
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder")
        try:
            server = ReportServer(LiveReport(folders, partial(_render, args), _describe), args.port)
        except OSError as error:
            hint = "; choose another --port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else ""
            raise InputError(f"port {args.port} cannot be used: {error.strerror}{hint}") from error
        with server:
            print(server.url, flush=True)
            self.notice(args, "for this machine alone; Ctrl-C ends it")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return 0
        return 0


def _render(args: argparse.Namespace) -> str:
    from peftkit.compare.matched_methods import load_groups
    from peftkit.compare.output.html_report import render_report

    groups, _ = load_groups(map(Path, args.runs), args.pool, args.match, args.eval_set)
    options = {"by": args.by, "metric": args.metric, "baseline": args.baseline, "margin": args.margin}
    return render_report(groups, title=args.title, **options)


def _describe(folder: Path) -> tuple[int, int, str]:
    from peftkit.cli.progress_view import progress_line
    from peftkit.live.progress import read_progress

    progress = read_progress(folder)
    return progress.total, progress.count("done"), progress_line(progress)


def _port(text: str) -> int:
    if not text.isdigit() or not 0 <= int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 65535, not {text!r}")
    return int(text)
