"""``peftkit watch``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.cli.arguments import add_cost_axis, add_run
from peftkit.cli.completers import complete_with, metric_names
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError
from peftkit.run_directory import RunDirectory

if TYPE_CHECKING:
    from rich.console import Group

    from peftkit.compare.run_curve import RunCurve

NARROWEST = 40
"""Columns of output that is no terminal, whatever COLUMNS is."""
SECONDS = 1.0
"""Between two frames."""


class WatchCommand(SubCommand):
    """Draws the curve of a run while it trains."""

    name = "watch"
    help = "Plot a run's learning curve in the terminal while it trains."
    examples = (
        ("Follow a run to its end", "peftkit watch runs/quickstart-1"),
        ("Draw the loss against time once", "peftkit watch runs/quickstart-1 --metric loss --by seconds --once"),
    )
    json_help = "Print the curve as JSON, once."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_run(parser)
        add_cost_axis(parser, derived=False)
        metric = parser.add_argument("--metric", help="Metric. [default: accuracy, or the first one]")
        complete_with(metric, metric_names)
        parser.add_argument("--once", action="store_true", help="Draw it once and exit.")

    def run(self, args: argparse.Namespace) -> int:
        run = RunDirectory(Path(args.run))
        if not (run.path / "recipe.toml").is_file():
            raise InputError(f"{args.run!r} is not a run directory: it has no recipe.toml")
        if args.json:
            from peftkit.compare.run_curve import read_run_curve

            self.print_json(_document(run, args.by, read_run_curve(run, args.by, args.metric)))
        else:
            _watch(run, args.by, args.metric, once=args.once)
        return 0


def _watch(run: RunDirectory, by: str, metric: str | None, *, once: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    if once or not console.is_terminal:
        console.print(_frame(run, by, metric, console.width))
        return
    with Live(_frame(run, by, metric, console.width), console=console, auto_refresh=False) as live:
        while run.status == "running":
            time.sleep(SECONDS)
            live.update(_frame(run, by, metric, console.width), refresh=True)


def _frame(run: RunDirectory, by: str, metric: str | None, width: int) -> Group:
    from rich.console import Group
    from rich.text import Text

    from peftkit.cli.terminal_plot import COLORS, plot
    from peftkit.compare.run_curve import read_run_curve

    names = _names(run)
    head = Text(f"{names['method']} on {names['task']} with {names['model']}: {run.status}")
    curve = read_run_curve(run, by, metric)
    if curve.step is None:
        return Group(head, Text("no evaluation yet"))
    if not curve.lines:
        return Group(head, Text(f"no evaluation has a number for {curve.metric} yet"))
    legend = Text(f"{curve.metric}  ").append_text(Text("  ").join(Text(s, style=COLORS[s]) for s in curve.lines))
    scores = ", ".join(f"{split} {points[-1][1]:.4f}" for split, points in curve.lines.items())
    below = [Text(f"step {curve.step}: {scores}")]
    if curve.baselines:
        baselines = ", ".join(f"{name} {score:.4f}" for name, score in curve.baselines.items())
        below.append(Text(f"baselines on {curve.baseline_split} (dotted): {baselines}"))
    return Group(head, legend, plot(curve.lines, width, by, levels=curve.baselines), *below)


def _document(run: RunDirectory, by: str, curve: RunCurve) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "status": run.status,
        **_names(run),
        "metric": curve.metric,
        "by": by,
        "step": curve.step,
        "curve": {
            split: [{"cost": cost, "score": score} for cost, score in points] for split, points in curve.lines.items()
        },
        "baselines": {curve.baseline_split: dict(curve.baselines)} if curve.baselines else {},
    }


def _names(run: RunDirectory) -> dict[str, str]:
    recipe = run.recipe()
    return {table: recipe.get(table, {}).get("name", "?") for table in ("method", "task", "model")}
