"""The look of figures, drawn without pyplot."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from peftkit.compare.recorded_baselines import merge_close_labels
from peftkit.errors import RunError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a6d3b", "#7f7f7f")  # Okabe, Ito (2008)
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "D", "^")
DOTTED = {"color": "#555555", "linewidth": 0.7, "linestyle": (0, (1, 2)), "zorder": 0}
LABEL_DISTANCE = 0.04
"""Baselines closer than this share of the panel's height share a label."""
NAMES = {
    "gmacs": "GMACs",
    "gmacs_with_tuning": "GMACs with tuning",
    "seconds": "seconds of training",
    "wall_seconds": "seconds waited",
    "joules": "joules",
}


def line_look(index: int) -> dict[str, Any]:
    """Return the colour and the dashes of a line, which no other of up to 32 lines has.

    Args:
        index: its number, from 0.
    """
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def draw_levels(panel: Any, scores: Mapping[str, float]) -> None:
    """Draw dotted, labelled lines at scores, such as those of the input-blind baselines.

    Args:
        panel: the axes.
        scores: the scores by name.
    """
    for value in scores.values():
        panel.axhline(value, **DOTTED)
    low, high = panel.get_ylim()
    for names, value in merge_close_labels(scores, LABEL_DISTANCE * (high - low)):
        panel.annotate(
            names,
            (1, value),
            xycoords=panel.get_yaxis_transform(),
            xytext=(-2, 1),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=6,
            color=DOTTED["color"],
        )


@contextmanager
def figure_style() -> Iterator[None]:
    """Set matplotlib's parameters for the figures, and restore those of the process.

    Raises:
        RunError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise RunError("figures need matplotlib: pip install 'peftkit[figures]'") from error
    style: dict[str, Any] = {"svg.hashsalt": "peftkit", "svg.fonttype": "none", "axes.spines.top": False}
    style |= {"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "font.size": 9}
    with matplotlib.rc_context(style):
        yield


def subplots(*grid: int, figsize: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """Create a figure and its panels without pyplot, which would choose a window system for the whole process.

    Args:
        grid: the numbers of rows and columns.
        figsize: width and height in inches.
        options: further arguments of ``Figure.subplots``.
    """
    figure = _figure_class()(figsize=figsize, layout="constrained")
    return figure, figure.subplots(*grid, **options)


@cache
def _figure_class() -> Any:
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):  # type: ignore[misc, unused-ignore]
        """A figure that notebooks show without pyplot."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=100)
            return file.getvalue()

    return NotebookFigure
