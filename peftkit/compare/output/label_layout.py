"""Labels of points that never overlap: a column beside the panel, with a leader line from each label to its point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peftkit.compare.statistics.observations import Array

FONT_SIZE = 6.0
"""Of labels, in points."""
LINE_HEIGHT = 1.35 * FONT_SIZE
"""The distance between the middles of two labels, in points."""

LEADER = {
    **{"arrowstyle": "-", "linewidth": 0.4, "color": "#aaaaaa", "shrinkA": 1, "shrinkB": 2},
    "relpos": (0.0, 0.5),  # from the middle of the label's left edge
}


def panel_height(labels: int, least: float) -> float:
    """Return the height in inches of a panel beside which this number of labels fits.

    Args:
        labels: The number of labels.
        least: The least height.
    """
    return max(least, (labels + 1) * LINE_HEIGHT / 72)


def spread(positions: Sequence[float], distance: float, low: float, high: float) -> Array:
    """Move positions apart as little as needed, within bounds if they fit.

    Args:
        positions: Where the labels would be best, in any order.
        distance: The least distance between two of them.
        low: The lowest position.
        high: The highest position.

    Returns:
        The positions, of shape (labels,), in the order of the arguments.
    """
    order = np.argsort(positions, kind="stable")
    offsets = np.arange(len(positions)) * distance
    # Apart by the distance means that these do not decrease: the closest such sequence is an isotonic regression.
    blocks: list[tuple[float, int]] = []
    for wanted in np.asarray(positions, dtype=float)[order] - offsets:
        mean, size = float(wanted), 1
        while blocks and blocks[-1][0] >= mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    placed = np.concatenate([np.full(size, mean) for mean, size in blocks]) if blocks else np.zeros(0)
    top = high - (offsets[-1] if len(offsets) else 0.0)
    placed = np.clip(placed, low, max(low, top)) + offsets
    result = np.empty(len(placed))
    result[order] = placed
    return result


def label_points(figure: Any, panel: Any, points: Sequence[tuple[str, float, float]]) -> None:
    """Label points in a column to the right of a panel, after everything else is drawn.

    Args:
        figure: The matplotlib figure, high enough for the labels (``panel_height``).
        panel: The axes of the points.
        points: The text and the coordinates of each, in data units.
    """
    figure.draw_without_rendering()  # settles the layout
    height = panel.get_window_extent().height
    distance = LINE_HEIGHT * figure.dpi / 72 / height
    to_panel = panel.transData + panel.transAxes.inverted()
    wanted = [float(to_panel.transform((x, y))[1]) for _, x, y in points]
    for (text, x, y), place in zip(points, spread(wanted, distance, 0.0, 1.0), strict=True):
        panel.annotate(
            text,
            (x, y),
            xytext=(1.04, place),
            textcoords="axes fraction",
            fontsize=FONT_SIZE,
            verticalalignment="center",
            arrowprops=LEADER,
        )
