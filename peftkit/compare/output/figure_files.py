"""Writes figures as SVG, PNG, PDF or PGF; the same figure always gives the same file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftkit.compare.output.table_formats import escape_latex

FORMS = ("svg", "png", "pdf", "pgf")
"""File formats of figures."""
PGF_HEADER = r"""%% A figure of peftkit. To include it, load pgf in the preamble: \usepackage{pgf}
\begingroup
\makeatletter
\def\mathdefault#1{#1}
\begin{pgfpicture}
"""
PGF_END = r"""\end{pgfpicture}
\makeatother
\endgroup
"""


def save_figure(figure: Any, path: Path, forms: Sequence[str]) -> list[Path]:
    """Write a figure in each format, without dates so that files are reproducible.

    Args:
        figure: A matplotlib figure.
        path: The path without a suffix.
        forms: File formats, of ``FORMS``.

    Returns:
        The paths of the files.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # which each drawing would change again, and so each file after the first
    files = []
    for form in forms:
        files.append(path.with_name(f"{path.name}.{form}"))
        if form == "pgf":
            _save_pgf(figure, files[-1])
            continue
        metadata = {"Date": None} if form == "svg" else {"CreationDate": None} if form == "pdf" else None
        figure.savefig(files[-1], metadata=metadata, dpi=160)
    return files


def _save_pgf(figure: Any, path: Path) -> None:
    """Write PGF with matplotlib's renderer, but without LaTeX, which it would start to measure text.

    The fonts of the document that includes the figure are not known here anyway.
    """
    from matplotlib.backend_bases import RendererBase
    from matplotlib.backends.backend_pgf import RendererPgf

    class Renderer(RendererPgf):  # type: ignore[misc, unused-ignore]
        def draw_text(
            self,
            gc: Any,
            x: float,
            y: float,
            s: str,
            prop: Any,
            angle: float,
            ismath: Any = False,
            mtext: Any = None,
        ) -> None:
            super().draw_text(gc, x, y, s if ismath else escape_latex(s), prop, angle, ismath, mtext)

        def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> tuple[float, float, float]:
            return RendererBase.get_text_width_height_descent(self, s, prop, ismath)

    width, height = figure.get_size_inches()
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(PGF_HEADER)
        file.write(f"\\pgfpathrectangle{{\\pgfpointorigin}}{{\\pgfqpoint{{{width:f}in}}{{{height:f}in}}}}\n")
        file.write("\\pgfusepath{use as bounding box, clip}\n")
        figure.draw(Renderer(figure, file))
        file.write(PGF_END)
