"""Writes comparisons across tasks and models as a table with verdict and notes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import Any

from peftkit.compare.across.aggregate import BY_SCORE, AcrossTasks, Estimate, TaskSummary, describe_tasks
from peftkit.compare.output.table_formats import Page, TableRow, render_pages
from peftkit.compare.statistics.posterior import CONFIDENCE_LEVEL
from peftkit.compare.verdict import format_percent

WIDE = 0.5
"""A task's scale is narrow if the best method's interval is wider than this, in normalised scores."""
TITLE = "Methods across tasks and models"
SUFFIXES = {"": "mean", "_low": "low", "_high": "high"}
"""Suffixes of an estimate's columns, and the attributes of ``Estimate`` that they hold."""


def render(aggregate: AcrossTasks, form: str) -> bytes:
    """Write a comparison across tasks and models in one of the output formats of a comparison.

    Args:
        aggregate: the comparison.
        form: one of ``FORMATS`` in ``render``.

    Returns:
        The file's content.
    """
    document = {"verdict": aggregate.verdict, **asdict(aggregate)}
    page = Page(
        TITLE,
        table_rows(aggregate),
        notes(aggregate),
        document,
        _flat_records(aggregate),
        (f"{aggregate.verdict}.",),
        wide=False,
    )
    return render_pages([page], form, "across")


def table_rows(aggregate: AcrossTasks) -> list[TableRow]:
    """Build the table, header first; empty columns are left out."""
    header = ("method", "score", "95 % interval", "iqm", "rank", "P(best)", "cost")
    rows = [
        (
            row.method,
            "" if row.score is None else f"{row.score.mean:.3f}",
            "" if row.score is None else f"{row.score.low:.3f} – {row.score.high:.3f}",
            "" if row.iqm is None else f"{row.iqm.mean:.3f}",
            f"{row.rank.mean:.1f} ({row.rank.low:.1f} – {row.rank.high:.1f})",
            format_percent(row.best),
            "" if row.cost is None else f"{row.cost:.2f}" if aggregate.baseline else f"{row.cost:,.4g}",
        )
        for row in aggregate.lines
    ]
    if aggregate.decided_by == BY_SCORE:
        rows.append(("constant", "0.000", "", "", "", "", ""))  # by definition of the scale
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return [tuple(row[i] for i in kept) for row in (header, *rows)]


def notes(aggregate: AcrossTasks) -> list[str]:
    """Format the notes below the table."""
    metrics: dict[str, list[TaskSummary]] = defaultdict(list)
    for place in aggregate.places:
        metrics[f"{place.split} {place.metric}"].append(place)
    lines = [
        f"{metric} of the checkpoint selected on dev: {describe_tasks(places)}" for metric, places in metrics.items()
    ]
    if aggregate.decided_by == BY_SCORE:
        lines += [
            "score: normalised so that 0 is the best constant answer and 1 the expected score of the best method; "
            "the mean over tasks and models with equal weights",
            "iqm: the interquartile mean; rank: the mean rank, 1 is best",
            "P(best): the probability of the best score",
        ]
    else:
        lines.append("rank: the mean rank, 1 is best; P(best): the probability of the lowest mean rank")
    lines.append(f"intervals: {CONFIDENCE_LEVEL:.0%}, for these tasks and models only")
    lines += [
        f"probability of improvement: {aggregate.lines[0].method} over {row.method}: {row.improvement.mean:.2f} "
        f"({row.improvement.low:.2f} – {row.improvement.high:.2f})"
        for row in aggregate.lines
        if row.improvement
    ]
    lines += [f"in ranks only: {place.title}: {place.unscaled}" for place in aggregate.places if place.unscaled]
    lines += [
        f"narrow scale: {place.title}: from {place.constant:.4f} to {place.top:.4f}, so its scores are noisy; "
        "ranks are not affected"
        for place in aggregate.places
        if place.width is not None and place.width > WIDE
    ]
    if any(row.cost is not None for row in aggregate.lines):
        relative = f" relative to {aggregate.baseline}" if aggregate.baseline else ""
        lines.append(f"cost: {aggregate.by} of a run{relative}, the mean over tasks and models")
    return [*lines, *(f"left out: {name}: {reason}" for name, reason in aggregate.left_out), *aggregate.remarks]


def _flat_records(aggregate: AcrossTasks) -> list[dict[str, Any]]:
    """One record per method."""
    common = {
        "by": aggregate.by,
        "baseline": aggregate.baseline,
        "decided_by": aggregate.decided_by,
        "settled": aggregate.settled,
        "verdict": aggregate.verdict,
        "holds_for": "; ".join(place.title for place in aggregate.deciding_tasks),
    }
    records = []
    for row in aggregate.lines:
        record: dict[str, Any] = {"method": row.method, "best": row.best}
        for name in ("score", "iqm", "rank", "improvement"):
            estimate: Estimate | None = getattr(row, name)
            record |= {f"{name}{suffix}": getattr(estimate, attribute, None) for suffix, attribute in SUFFIXES.items()}
        records.append(record | {"cost": row.cost} | common)
    return records
