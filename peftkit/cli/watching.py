"""The verb ``watch``: a run's curve in the terminal, drawn anew as it grows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from peftkit.compare.baselines import recorded
from peftkit.compare.curves import cost, is_number
from peftkit.errors import InputError
from peftkit.runs import RunDirectory

HEIGHT = 14
NARROWEST = 40
"""Columns of output that is no terminal, whatever COLUMNS says."""
COLOURS = {"train": "yellow", "dev": "cyan", "test": "magenta"}
BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The dots of a braille character, by column and row."""
Points = Sequence[tuple[float, float]]


def watch_run(path: str, *, by: str, metric: str | None, once: bool, every: float = 1.0) -> int:
    """Draws the run's curve until the run ends, or once where ``once`` is set or nobody looks.

    Raises:
        InputError: the folder is no run directory, or the run has not the cost or the metric.
    """
    run = RunDirectory(Path(path))
    if not (run.path / "recipe.toml").is_file():
        raise InputError(f"{path!r} is no run directory: it has no recipe.toml")
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    if once or not console.is_terminal:
        console.print(_frame(run, by, metric, console.width))
        return 0
    with Live(_frame(run, by, metric, console.width), console=console, auto_refresh=False) as live:
        while _status(run) == "running":
            time.sleep(every)
            live.update(_frame(run, by, metric, console.width), refresh=True)
    return 0


def _frame(run: RunDirectory, by: str, metric: str | None, width: int) -> Group:
    rows: list[dict[str, Any]] = []
    with suppress(InputError):  # before the first evaluation, or while a line is written
        rows = run.evaluations()
    recipe = run.recipe()
    method, task, model = (recipe.get(table, {}).get("name", "?") for table in ("method", "task", "model"))
    head = f"{method} on {task} with {model}: {_status(run)}"
    if not rows:
        return Group(Text(head), Text("nothing is evaluated yet"))
    known = sorted({key for row in rows for key in row.get("dev") or {}})
    metric = metric or ("accuracy" if "accuracy" in known else next((key for key in known if key != "loss"), "loss"))
    lines = {
        split: [
            (cost(row, by), float(row[split][metric])) for row in rows if is_number((row.get(split) or {}).get(metric))
        ]
        for split in COLOURS
    }
    lines = {split: points for split, points in lines.items() if points}
    if not lines and metric in known:
        return Group(Text(head), Text(f"no evaluation has given a number for {metric} yet"))
    if not lines:
        raise InputError(f"{run.path}: has no metric {metric!r}; it has {', '.join(known)}")
    split = "test" if "test" in lines else "dev"
    levels = recorded(run.baselines(), metric, split)
    names = Text(f"{metric}  ").append_text(Text("  ").join(Text(s, style=COLOURS[s]) for s in lines))
    last = rows[-1]
    scores = ", ".join(f"{split} {points[-1][1]:.4f}" for split, points in lines.items())
    below = [Text(f"step {last['step']}: {scores}")]
    if levels:
        without = ", ".join(f"{name} {value:.4f}" for name, value in levels.items())
        below.append(Text(f"baselines on {split} (dotted): {without}"))
    return Group(Text(head), names, plot(lines, width, by, levels=levels), *below)


def plot(
    lines: Mapping[str, Points],
    width: int,
    name: str,
    height: int = HEIGHT,
    levels: Mapping[str, float] | None = None,
) -> Text:
    """Lines as braille dots, two by four to a character, with their lowest and highest values at the sides.

    Args:
        lines: costs and values, by name.
        width: columns of the terminal.
        name: what the costs are called.
        height: rows of the plot.
        levels: values of dotted horizontal lines, by the labels at their right; labels are left out where it is narrow.
    """
    every = [point for points in lines.values() for point in points]
    (x0, x1), (y0, y1) = ((min(axis), max(axis)) for axis in zip(*every, strict=True))
    levels = levels or {}
    y0, y1 = min((y0, *levels.values())), max((y1, *levels.values()))
    left = max(len(f"{y:.4g}") for y in (y0, y1)) + 1
    heights = {label: _dots([(x0, y)], (x0, x1), (y0, y1), 1, 4 * height)[0][1] for label, y in levels.items()}
    labels: dict[int, str] = {}
    for label, row in heights.items():
        labels[row // 4] = f"{labels[row // 4]}, {label}" if row // 4 in labels else label
    right = max((len(label) + 1 for label in labels.values()), default=0)
    if min(width, 100) - left - 1 - right < 20:
        labels, right = {}, 0
    columns = max(20, min(width, 100) - left - 1 - right)
    dots: dict[tuple[int, int], tuple[int, str]] = {}
    for row in heights.values():
        for column in range(0, columns, 2):
            bits = dots.get((column, row // 4), (0, ""))[0]
            dots[column, row // 4] = bits | BRAILLE[0][row % 4], "dim"
    for split, points in lines.items():
        for column, row in _dots(points, (x0, x1 or 1.0), (y0, y1), 2 * columns, 4 * height):
            bits = dots.get((column // 2, row // 4), (0, ""))[0]
            dots[column // 2, row // 4] = bits | BRAILLE[column % 2][row % 4], COLOURS.get(split, "")
    text = Text()
    for row in range(height):
        side = f"{y1:.4g}" if row == 0 else f"{y0:.4g}" if row == height - 1 else ""
        text.append(f"{side:>{left - 1}}│")
        for column in range(columns):
            bits, style = dots.get((column, row), (0, ""))
            text.append(chr(0x2800 + bits) if bits else " ", style=style)
        text.append(f" {labels[row]}\n" if row in labels else "\n", style="dim")
    ends = f"{x0:.4g}", f"{name} {x1:.4g}"
    text.append(" " * left + ends[0] + ends[1].rjust(columns - len(ends[0])))
    return text


def _dots(
    points: Points, xs: tuple[float, float], ys: tuple[float, float], width: int, height: int
) -> list[tuple[int, int]]:
    """The dots from point to point; row 0 is at the top."""

    def at(value: float, ends: tuple[float, float], size: int) -> int:
        return round((value - ends[0]) / ((ends[1] - ends[0]) or 1.0) * (size - 1))

    marks = [(at(x, xs, width), height - 1 - at(y, ys, height)) for x, y in points]
    found = marks[:1]
    for (c0, r0), (c1, r1) in pairwise(marks):
        steps = max(abs(c1 - c0), abs(r1 - r0), 1)
        found += [(c0 + (c1 - c0) * i // steps, r0 + (r1 - r0) * i // steps) for i in range(1, steps + 1)]
    return found


def _status(run: RunDirectory) -> str:
    with suppress(InputError):
        return str(run.summary().get("status", "running"))
    return "running"
