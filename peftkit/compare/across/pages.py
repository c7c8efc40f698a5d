"""Methods across tasks and models as a table with its verdict and notes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from typing import Any

from peftkit.compare.across.aggregate import SCORE, Across, Estimate, Place, places_of
from peftkit.compare.statistics.engine import LEVEL
from peftkit.compare.tables import Page, Row, rendered
from peftkit.compare.verdict import percent

WIDE = 0.5
"""The width of the best method's interval, in normalised scores, from which on a section's scale is called narrow."""
TITLE = "Methods across tasks and models"
ENDS = {"": "mean", "_low": "low", "_high": "high"}
"""The columns of an estimate."""


def written(found: Across, form: str) -> bytes:
    """The methods over all tasks and models in one of the forms of a comparison."""
    document = {"verdict": found.verdict, **asdict(found)}
    page = Page(TITLE, rows_of(found), notes(found), document, _flat(found), (f"{found.verdict}.",), wide=False)
    return rendered([page], form, "across")


def rows_of(found: Across) -> list[Row]:
    """The table with its heads; columns that nothing would stand in are left out."""
    heads = ("method", "score", "95 % interval", "iqm", "rank", "P(best)", "cost")
    rows = [
        (
            line.method,
            "" if line.score is None else f"{line.score.mean:.3f}",
            "" if line.score is None else f"{line.score.low:.3f} – {line.score.high:.3f}",
            "" if line.iqm is None else f"{line.iqm.mean:.3f}",
            f"{line.rank.mean:.1f} ({line.rank.low:.1f} – {line.rank.high:.1f})",
            percent(line.best),
            "" if line.cost is None else f"{line.cost:.2f}" if found.baseline else f"{line.cost:,.4g}",
        )
        for line in found.lines
    ]
    if found.decided_by == SCORE:
        rows.append(("constant", "0.000", "", "", "", "", ""))  # by the definition of the scale
    kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    return [tuple(row[i] for i in kept) for row in (heads, *rows)]


def notes(found: Across) -> list[str]:
    """The notes beside the table."""
    metrics: dict[str, list[Place]] = defaultdict(list)
    for place in found.places:
        metrics[place.metric].append(place)
    lines = [f"{metric} on test, of what dev selects: {places_of(places)}" for metric, places in metrics.items()]
    if found.decided_by == SCORE:
        lines += [
            "score: the mean over these with equal weights, where 0 is the best constant answer and 1 the expected "
            "score of the best method",
            "iqm: the interquartile mean; rank: the mean rank, 1 is best",
            "P(best): the probability of the highest score",
        ]
    else:
        lines.append("rank: the mean rank, 1 is best; P(best): the probability of the lowest mean rank")
    lines.append(f"intervals: {LEVEL:.0%}, for these tasks and models; they do not cover other ones")
    lines += [
        f"probability of improvement: {found.lines[0].method} over {line.method}: {line.improvement.mean:.2f} "
        f"({line.improvement.low:.2f} – {line.improvement.high:.2f})"
        for line in found.lines
        if line.improvement
    ]
    lines += [f"in ranks only: {place.title}: {place.unscaled}" for place in found.places if place.unscaled]
    lines += [
        f"narrow scale: {place.title}: from {place.constant:.4f} to {place.top:.4f}, so its scores vary most; ranks do "
        "not depend on that"
        for place in found.places
        if place.width is not None and place.width > WIDE
    ]
    if any(line.cost is not None for line in found.lines):
        relative = f" relative to {found.baseline}" if found.baseline else ""
        lines.append(f"cost: {found.by} of a run{relative}, the mean over these")
    return [*lines, *(f"left out: {name}: {reason}" for name, reason in found.left_out), *found.remarks]


def _flat(found: Across) -> list[dict[str, Any]]:
    """A row for each method."""
    common = {
        "by": found.by,
        "baseline": found.baseline,
        "decided_by": found.decided_by,
        "settled": found.settled,
        "verdict": found.verdict,
        "holds_for": "; ".join(place.title for place in found.deciding),
    }
    rows = []
    for line in found.lines:
        row: dict[str, Any] = {"method": line.method, "best": line.best}
        for name in ("score", "iqm", "rank", "improvement"):
            estimate: Estimate | None = getattr(line, name)
            row |= {f"{name}{end}": getattr(estimate, of, None) for end, of in ENDS.items()}
        rows.append(row | {"cost": line.cost} | common)
    return rows
