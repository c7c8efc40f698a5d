"""``peftkit watch``."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from peftkit.cli.arguments import add_cost_axis
from peftkit.cli.completers import complete_with, metric_names
from peftkit.cli.subcommand import SubCommand
from peftkit.run_directory import RunDirectory

if TYPE_CHECKING:
    from rich.console import Group

    from peftkit.compare.run_curve import RunCurve

NARROWEST = 40
"""Columns of output that is no terminal, whatever COLUMNS is."""
SECONDS = 1.0
"""Between two frames."""


class WatchCommand(SubCommand):
    """Shows the progress of a run, a sweep or a folder of runs, until all of it has ended."""

    name = "watch"
    help = "Follow a run, a sweep or a folder of runs in the terminal to the end."
    examples = (
        ("Follow a run to its end", "peftkit watch runs/quickstart-1"),
        ("Follow a sweep: what is done, the time left, the best so far", "peftkit watch runs/pocket"),
    )
    json_help = "Print the curve of a run, or the progress of a folder, as JSON, once."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run", metavar="RUN", help="A run directory, the folder of a sweep, or one of runs.")
        add_cost_axis(parser, derived=False)
        metric = parser.add_argument("--metric", help="Metric. [default: accuracy, or the first one]")
        complete_with(metric, metric_names)
        parser.add_argument("--once", action="store_true", help="Draw it once and exit.")

    def run(self, args: argparse.Namespace) -> int:
        run = RunDirectory(Path(args.run))
        view = _RunView(args, run) if (run.path / "recipe.toml").is_file() else _FolderView(args, run.path)
        if args.json:
            self.print_json(view.document())
        else:
            _watch(view, once=args.once)
        return 0


class _View(Protocol):
    """What is watched."""

    active: bool
    """Whether it had not ended when it was read."""

    def read(self) -> None:
        """Read the state."""

    def line(self) -> str:
        """The state in one line, which changes when there is news."""

    def frame(self, width: int, *, terminal: bool) -> Group:
        """The state as a drawing."""

    def document(self) -> dict[str, Any]:
        """The state as JSON."""


class _RunView:
    """One run."""

    def __init__(self, args: argparse.Namespace, run: RunDirectory) -> None:
        self.run, self.by, self.metric = run, args.by, args.metric
        self.read()

    def read(self) -> None:
        from peftkit.run_directory.lock import is_locked

        locked = is_locked(self.run.path)
        status = self.run.status
        self.active = status == "running" and locked is not False

    def line(self) -> str:
        from peftkit.compare.run_curve import read_run_curve

        curve = read_run_curve(self.run, self.by, self.metric)
        scores = ", ".join(f"{split} {points[-1][1]:.4f}" for split, points in curve.lines.items())
        return "no evaluation yet" if curve.step is None else f"step {curve.step}: {curve.metric} {scores}"

    def frame(self, width: int, *, terminal: bool) -> Group:
        return _frame(self.run, self.by, self.metric, width)

    def document(self) -> dict[str, Any]:
        from peftkit.compare.run_curve import read_run_curve

        return _document(self.run, self.by, read_run_curve(self.run, self.by, self.metric))


class _FolderView:
    """A folder of runs, such as that of a sweep."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.folder, self.by, self.metric = folder, args.by, args.metric
        self.read()

    def read(self) -> None:
        from peftkit.live.progress import read_progress

        self.progress = read_progress(self.folder, self.metric)
        self.active = self.progress.is_active

    def line(self) -> str:
        from peftkit.cli.progress_view import progress_line

        return progress_line(self.progress)

    def frame(self, width: int, *, terminal: bool) -> Group:
        from peftkit.cli.progress_view import progress_frame

        return progress_frame(self.progress, width, self.by, self.metric, bar=terminal)

    def document(self) -> dict[str, Any]:
        from peftkit.cli.progress_view import progress_document

        return progress_document(self.progress)


def _watch(view: _View, *, once: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    if console.is_terminal and not once:
        with Live(view.frame(console.width, terminal=True), console=console, auto_refresh=False) as live:
            while view.active:
                time.sleep(SECONDS)
                view.read()
                live.update(view.frame(console.width, terminal=True), refresh=True)
        return
    latest = ""
    while view.active and not once:  # a log file gets a line for each change, and the drawing at the end
        if (line := _without_time_left(view.line())) != latest:
            console.print(view.line(), markup=False, soft_wrap=True)
            latest = line
        time.sleep(SECONDS)
        view.read()
    console.print(view.frame(console.width, terminal=False))


def _without_time_left(line: str) -> str:
    """The line without its estimate, which changes every second."""
    return re.sub(r", about [^;]* left", "", line)


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
