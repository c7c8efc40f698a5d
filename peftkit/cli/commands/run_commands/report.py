"""``peftkit report``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.cli.arguments import add_cost_axis, add_fairness, add_metric, add_runs
from peftkit.cli.commands.run_commands.verify import verify_each
from peftkit.cli.compared_runs import load_compared_runs
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError

if TYPE_CHECKING:
    from peftkit.compare.input.groups import RunGroup
    from peftkit.verify import Verification


FIGURE_FORMS = ("svg", "png", "pdf", "pgf")


class ReportCommand(SubCommand):
    """Writes an HTML page, figures and LaTeX tables."""

    name = "report"
    help = "Write a comparison as an HTML page, figures and LaTeX tables."
    examples = (
        ("Write one page", "peftkit report runs -o report.html"),
        ("Write figures for a paper", "peftkit report runs --figures figures --form pdf"),
    )
    json_help = "Print the paths of the files as JSON."
    writes_files = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_runs(parser)
        add_cost_axis(parser)
        add_metric(parser)
        add_fairness(parser)
        parser.add_argument(
            "-o", "--output", metavar="FILE", help="The page. [default: report.html, or none with --figures]"
        )
        parser.add_argument("--title", default="PEFT methods by score and cost", help="Title of the page.")
        parser.add_argument("--figures", metavar="DIR", help="Folder for figures and LaTeX tables.")
        parser.add_argument(
            "--form",
            choices=FIGURE_FORMS,
            action="append",
            help="File format of the figures. Repeatable. [default: svg]",
        )
        parser.add_argument(
            "--verified",
            action="store_true",
            help="Verify the runs and show the outcome on the page. Exits with 1 if a value differs.",
        )

    def run(self, args: argparse.Namespace) -> int:
        output = args.output or (None if args.figures else "report.html")
        if args.verified and not output:
            raise InputError("--verified needs a page: name one with --output")
        groups = load_compared_runs(args)
        options = {"by": args.by, "metric": args.metric, "baseline": args.baseline, "margin": args.margin}
        verifications: list[Verification] = []
        files: list[str] = []
        if output:
            if args.verified:
                verifications = list(verify_each([run.path for group in groups for run in _runs(group)]))
            from peftkit.compare.output.html_report import write_report

            verified = {each.path: each for each in verifications} if args.verified else None
            write_report(Path(output), groups, title=args.title, verified=verified, **options)
            files.append(output)
        if args.figures:
            from peftkit.compare.output.figures import draw_figures

            files += map(str, draw_figures(groups, Path(args.figures), args.form or ("svg",), **options))
        if args.json:
            self.print_json({"files": files})
        else:
            print("\n".join(files))
        differing = [each for each in verifications if each.with_status("differs")]
        for each in differing:
            print(f"{each.path}: {each.verdict}", file=sys.stderr)
        return 1 if differing else 0


def _runs(group: RunGroup) -> list[Any]:
    return [run for runs in group.runs.values() for run in runs.values()]
