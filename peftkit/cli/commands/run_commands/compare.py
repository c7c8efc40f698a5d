"""``peftkit compare``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from peftkit.cli.arguments import add_cost_axis, add_fairness, add_metric, add_runs, positive, share
from peftkit.cli.compared_runs import load_compared_runs
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError, RunError


class CompareCommand(SubCommand):
    """Compares methods."""

    name = "compare"
    help = "Compare methods by score and cost, with confidence intervals."
    examples = (
        ("Compare all runs in a folder", "peftkit compare runs"),
        ("Write a table for a paper", "peftkit compare runs --by seconds --format latex -o table.tex"),
    )
    json_help = None  # --format json

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_runs(parser)
        add_cost_axis(parser)
        add_metric(parser)
        add_fairness(parser)
        parser.add_argument(
            "--share",
            type=share,
            action="append",
            help="Show the cost of reaching this share of the baseline's best score. Repeatable. [default: 0.95]",
        )
        parser.add_argument(
            "--budget",
            type=positive,
            action="append",
            help="Name the best method within this budget. Repeatable. [default: five budgets]",
        )
        view = parser.add_mutually_exclusive_group()
        view.add_argument("--regret", action="store_true", help="Show the dev scores and losses of tuning trials.")
        view.add_argument(
            "--across", action="store_true", help="Aggregate tasks and models, and name the best method overall."
        )
        view.add_argument("--probe", metavar="NAME", help="Show what methods learn, and forget on a probe.")
        parser.add_argument("--wide", action="store_true", help="Show all columns, and notes on pairwise tests.")
        formats = ["table", "json", "csv", "parquet", "latex", "markdown"]
        parser.add_argument("--format", choices=formats, default="table", help="Output format. [default: table]")
        parser.add_argument("--json", dest="format", action="store_const", const="json", help="Same as --format json.")
        parser.add_argument("-o", "--output", metavar="FILE", help="Write to a file instead of standard output.")

    def run(self, args: argparse.Namespace) -> int:
        if args.format == "parquet" and not args.output:
            raise InputError("--format parquet is binary: name a file with --output")
        if args.probe and (args.share or args.budget or args.wide):
            raise InputError("--share, --budget and --wide cannot be used with --probe: costs are not shown")
        if args.across and (args.share or args.budget):
            raise InputError("--share and --budget cannot be used with --across: they refer to one task and model")
        text = _compare(args)
        if not args.output:
            print(text.decode(), end="")
            return 0
        try:
            Path(args.output).write_bytes(text)
        except OSError as error:
            raise RunError(f"{args.output} cannot be written: {error.strerror}") from error
        return 0


def _compare(args: argparse.Namespace) -> bytes:
    from peftkit.compare.across import compare_across_tasks
    from peftkit.compare.comparison import compare
    from peftkit.compare.output.across_pages import render as render_across
    from peftkit.compare.output.regret_table import render as render_regret
    from peftkit.compare.output.retention_pages import render as render_retention
    from peftkit.compare.output.table_formats import render
    from peftkit.compare.retention.frontier import compare_retention

    groups = load_compared_runs(args)
    if args.regret:
        return render_regret(groups, args.format)
    if args.probe:
        rows = [compare_retention(group, args.probe, by=args.by, metric=args.metric) for group in groups]
        return render_retention(rows, args.format)
    options: dict[str, Any] = {"by": args.by, "metric": args.metric, "baseline": args.baseline}
    if args.across:
        return render_across(compare_across_tasks(groups, **options), args.format)
    options |= {"budgets": args.budget, "margin": args.margin, "shares": args.share or (0.95,)}
    return render([compare(group, **options) for group in groups], args.format, wide=args.wide)
