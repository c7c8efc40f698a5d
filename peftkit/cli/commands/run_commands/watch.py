"""``peftkit watch``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.cli.arguments import add_cost_axis, add_run
from peftkit.cli.completion import complete_with, metric_names
from peftkit.cli.subcommand import SubCommand
from peftkit.errors import InputError
from peftkit.run_directory import RunDirectory

if TYPE_CHECKING:
    from rich.console import Group

    from peftkit.cli.terminal_plot import Points

NARROWEST = 40
"""Columns of output that is no terminal, whatever COLUMNS is."""
SECONDS = 1.0
"""Between two frames."""
SPLITS = ("train", "dev", "test")


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
            self.print_json(_document(run, args.by, _read_curve(run, args.by, args.metric)))
        else:
            _watch(run, args.by, args.metric, once=args.once)
        return 0


@dataclass(frozen=True)
class Curve:
    """The scores of a run so far."""

    metric: str | None = None
    lines: Mapping[str, Points] = field(default_factory=dict)
    """Cost and score of each evaluation, by split."""
    baselines: Mapping[str, float] = field(default_factory=dict)
    """Scores of input-blind baselines on ``baseline_split``."""
    baseline_split: str = "dev"
    step: int | None = None
    """Of the latest evaluation; None before the first one."""


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
        while _status(run) == "running":
            time.sleep(SECONDS)
            live.update(_frame(run, by, metric, console.width), refresh=True)


def _frame(run: RunDirectory, by: str, metric: str | None, width: int) -> Group:
    from rich.console import Group
    from rich.text import Text

    from peftkit.cli.terminal_plot import COLORS, plot

    names = _names(run)
    head = Text(f"{names['method']} on {names['task']} with {names['model']}: {_status(run)}")
    curve = _read_curve(run, by, metric)
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


def _read_curve(run: RunDirectory, by: str, metric: str | None) -> Curve:
    """Reads the scores of a run.

    Raises:
        InputError: The run has measured neither the cost nor the metric.
    """
    from peftkit.compare.curves import cost, is_number
    from peftkit.compare.recorded_baselines import recorded_baselines

    rows: Sequence[dict[str, Any]] = []
    with suppress(InputError):  # before the first evaluation, or while a line is being written
        rows = run.evaluations()
    if not rows:
        return Curve(metric)
    known = sorted({key for row in rows for key in row.get("dev") or {}})
    metric = metric or ("accuracy" if "accuracy" in known else next((key for key in known if key != "loss"), "loss"))
    lines = {
        split: [
            (cost(row, by), float(row[split][metric])) for row in rows if is_number((row.get(split) or {}).get(metric))
        ]
        for split in SPLITS
    }
    lines = {split: points for split, points in lines.items() if points}
    if not lines and metric not in known:
        raise InputError(f"{run.path}: no metric is called {metric!r}; the run has {', '.join(known)}")
    split = "test" if "test" in lines else "dev"
    return Curve(metric, lines, recorded_baselines(run.baselines(), metric, split), split, rows[-1]["step"])


def _document(run: RunDirectory, by: str, curve: Curve) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "status": _status(run),
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


def _status(run: RunDirectory) -> str:
    with suppress(InputError):
        return str(run.summary().get("status", "running"))
    return "running"
