"""Shows the progress of a folder of runs in a terminal, as lines of text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from peftkit.cli.terminal_plot import plot
from peftkit.compare.run_curve import read_run_curve
from peftkit.errors import InputError
from peftkit.live.progress import FolderProgress, RunProgress
from peftkit.run_directory import RunDirectory
from peftkit.sweep.within.duration_text import write_duration

STATES = ("done", "running", "failed", "diverged", "interrupted", "stopped")
LINE_COLORS = ("cyan", "magenta", "yellow", "green", "blue")
"""As many methods have a curve: the best ones."""
MAX_ROWS = 20
"""Methods in the table: the best ones."""


def progress_line(progress: FolderProgress) -> str:
    """Describe the progress in one line.

    Args:
        progress: The progress of the folder.
    """
    states = [f"{number} {state}" for state in STATES[1:] if (number := progress.count(state))]
    parts = [f"{progress.count('done')} of {progress.total} runs done", *states]
    if progress.trials_done:
        parts.append(f"{progress.trials_done} trials done")
    if (left := progress.seconds_left) and progress.is_active:
        parts.append(f"about {write_duration(left)} left")
    best = [f"best on {run.task} with {run.model}: {run.method} {run.score:.4f}" for run in progress.best()]
    return f"{progress.name}: {'; '.join([', '.join(parts), *best])}"


def progress_frame(progress: FolderProgress, width: int, by: str, metric: str | None, *, bar: bool) -> Group:
    """Draw the progress: a bar, a row for each method, and the curves of the best ones.

    Args:
        progress: The progress of the folder.
        width: Columns of the terminal.
        by: The cost axis of the curves.
        metric: The metric of the curves; None for the default.
        bar: Whether to draw the bar, which is of use in a terminal only.
    """
    parts: list[Any] = [Text(progress_line(progress))]
    if bar:
        done = progress.count("done") + sum(run.share for run in progress.runs if run.status == "running")
        parts.append(ProgressBar(total=max(1, progress.total), completed=done, width=min(width, 100)))
    best = sorted_by_score(progress)
    colors = dict(zip([run.method for run in _curve_runs(best)], LINE_COLORS, strict=False))
    parts += [_table(progress, best, colors), *_curves(_curve_runs(best), colors, width, by, metric)]
    return Group(*parts)


def progress_document(progress: FolderProgress) -> dict[str, Any]:
    """Return the progress as JSON.

    Args:
        progress: The progress of the folder.
    """
    return {
        "folder": str(progress.path),
        "name": progress.name,
        "active": progress.is_active,
        "total": progress.total,
        **{state: progress.count(state) for state in STATES},
        "trials_done": progress.trials_done,
        "seconds_left": progress.seconds_left,
        "best": [_run_document(run) for run in progress.best()],
        "runs": [_run_document(run) for run in progress.runs],
    }


def sorted_by_score(progress: FolderProgress) -> list[RunProgress]:
    """The best run of each method, task and model; by task and model, best first.

    Args:
        progress: The progress of the folder.
    """
    best: dict[tuple[str, str, str], RunProgress] = {}
    for run in progress.runs:
        key = run.task, run.model, run.method
        if key not in best or run.is_better_than(best[key]):
            best[key] = run

    def order(run: RunProgress) -> tuple[str, str, bool, float]:
        score = run.score or 0.0
        return run.task, run.model, run.score is None, -score if run.higher_is_better else score

    return sorted(best.values(), key=order)


def _table(progress: FolderProgress, best: Sequence[RunProgress], colors: Mapping[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title_justify="left")
    for name in ("task", "model", "method"):
        table.add_column(name, overflow="fold")
    for name in ("done", "running", "dev score", "step"):
        table.add_column(name, justify="right")
    for each in best[:MAX_ROWS]:
        same = [r for r in progress.runs if (r.task, r.model, r.method) == (each.task, each.model, each.method)]
        running = ", ".join(f"{run.share:.0%}" for run in same if run.status == "running")
        score = "–" if each.score is None else f"{each.metric} {each.score:.4f}"
        table.add_row(
            Text(each.task),
            Text(each.model),
            Text(each.method, style=colors.get(each.method, "")),
            f"{sum(run.status == 'done' for run in same)} of {len(same)}",
            running,
            Text(score),
            "–" if each.step is None else str(each.step),
        )
    if len(best) > MAX_ROWS:
        table.caption = f"and {len(best) - MAX_ROWS} more methods"
    return table


def _curve_runs(best: Sequence[RunProgress]) -> list[RunProgress]:
    """The best runs whose curves are drawn together: those of the task and model that have most methods."""
    groups: dict[tuple[str, str], list[RunProgress]] = {}
    for run in best:
        if run.score is not None:
            groups.setdefault((run.task, run.model), []).append(run)
    return max(groups.values(), key=len, default=[])[: len(LINE_COLORS)]


def _curves(
    runs: Sequence[RunProgress], colors: Mapping[str, str], width: int, by: str, metric: str | None
) -> list[Text]:
    lines = {}
    for run in runs:
        try:
            curve = read_run_curve(RunDirectory(run.path), by, metric or run.metric)
        except InputError:  # has not measured this cost, or not this metric
            continue
        if "dev" in curve.lines:
            lines[run.method] = curve.lines["dev"]
    if not lines:
        return [Text("no evaluation yet")]
    legend = Text("  ").join(Text(f"{name} {lines[name][-1][1]:.4f}", style=colors[name]) for name in lines)
    head = f"{metric or runs[0].metric} on dev, {runs[0].task} with {runs[0].model}, best run of each method: "
    return [Text(head).append_text(legend), plot(lines, width, by, colors=colors)]


def _run_document(run: RunProgress) -> dict[str, Any]:
    return {**asdict(run), "path": str(run.path), "seconds_left": run.seconds_left}
