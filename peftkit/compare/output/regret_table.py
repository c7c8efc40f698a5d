"""Writes regret curves as a table of tuning trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from peftkit.compare.input.groups import RunGroup
from peftkit.compare.output.table_formats import Page, TableRow, render_pages
from peftkit.compare.regret import RegretCurves, regret_curves
from peftkit.errors import InputError


def render(groups: Sequence[RunGroup], form: str) -> bytes:
    """Write the regret curves in one of the output formats of a comparison.

    Args:
        groups: the runs, one group per task and model.
        form: one of ``FORMATS`` in ``render``.

    Returns:
        The file's content.

    Raises:
        InputError: no method was tuned.
    """
    curves = [each for each in map(regret_curves, groups) if each]
    if not curves:
        raise InputError("no method of these runs was tuned by a sweep: there are no trials to show")
    return render_pages([_page(each) for each in curves], form, "regrets")


def table_rows(curves: RegretCurves) -> list[TableRow]:
    """Build the table, header first; empty columns are left out."""
    header = (
        "method",
        "learning rate",
        "settings",
        "stage",
        "seed",
        f"dev {curves.metric}",
        "dev loss",
        "regret",
        "chosen",
    )
    rows = [
        (
            trial.method,
            _format_number(trial.learning_rate, "g"),
            trial.settings,
            trial.stage,
            "" if trial.seed is None else str(trial.seed),
            _format_number(trial.score, ".4f", "n/a"),
            _format_number(trial.loss, ".4f"),
            _format_number(trial.regret, ".4f"),
            "yes" + ("; stopped at the edge of its range" if trial.at_edge else "") if trial.chosen else "",
        )
        for trial in curves.tried
    ]
    rows += [(name, "", "", "", "", f"{score:.4f}", "", "", "") for name, score in curves.baselines.items()]
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return [tuple(row[i] for i in kept) for row in (header, *rows)]


def title(curves: RegretCurves) -> str:
    """Format the title of the table."""
    return f"{curves.task} with {curves.model}: tuning trials by dev {curves.metric} and loss"


def _page(curves: RegretCurves) -> Page:
    common = {"task": curves.task, "model": curves.model, "metric": curves.metric}
    records = [{**common, **asdict(trial)} for trial in curves.tried]
    return Page(title(curves), table_rows(curves), curves.notes, asdict(curves), records)


def _format_number(number: float | None, form: str, otherwise: str = "") -> str:
    return otherwise if number is None else format(number, form)
