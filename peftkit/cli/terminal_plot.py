"""Line plots of braille characters for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from rich.text import Text

HEIGHT = 14
"""Rows of a plot."""
COLORS = {"train": "yellow", "dev": "cyan", "test": "magenta"}
BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The dots of a braille character, by column and row."""
Points = Sequence[tuple[float, float]]


def plot(
    lines: Mapping[str, Points],
    width: int,
    name: str,
    height: int = HEIGHT,
    levels: Mapping[str, float] | None = None,
    colors: Mapping[str, str] = COLORS,
) -> Text:
    """Draws lines as braille dots, two by four to a character, with the lowest and highest values at the sides.

    Args:
        lines: Costs and values, by name.
        width: Columns of the terminal.
        name: Name of the cost.
        height: Rows of the plot.
        levels: Values of dotted horizontal lines, by label; labels are omitted in a narrow terminal.
        colors: Colors of the lines, by name.

    Returns:
        The plot.
    """
    points_of_all = [point for points in lines.values() for point in points]
    (x0, x1), (y0, y1) = ((min(axis), max(axis)) for axis in zip(*points_of_all, strict=True))
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
            dots[column // 2, row // 4] = bits | BRAILLE[column % 2][row % 4], colors.get(split, "")
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
    """The dots on the lines from point to point, as columns and rows; row 0 is at the top."""

    def at(value: float, ends: tuple[float, float], size: int) -> int:
        return round((value - ends[0]) / ((ends[1] - ends[0]) or 1.0) * (size - 1))

    marks = [(at(x, xs, width), height - 1 - at(y, ys, height)) for x, y in points]
    dots = marks[:1]
    for (c0, r0), (c1, r1) in pairwise(marks):
        steps = max(abs(c1 - c0), abs(r1 - r0), 1)
        dots += [(c0 + (c1 - c0) * i // steps, r0 + (r1 - r0) * i // steps) for i in range(1, steps + 1)]
    return dots
