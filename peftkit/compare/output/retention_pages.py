"""Writes what methods learn and forget as text, JSON, CSV, Parquet, LaTeX or Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from peftkit.compare.output.table_formats import Page, TableRow, render_pages
from peftkit.compare.retention.advice import RetentionAdvice
from peftkit.compare.retention.forgetting import Forgetting
from peftkit.compare.retention.frontier import Retention, RetentionRow
from peftkit.compare.verdict import format_percent
from peftkit.errors import comma_separated


def render(retentions: Sequence[Retention], form: str) -> bytes:
    """Write comparisons of learning and forgetting.

    Args:
        retentions: one per task and model.
        form: the output format, one of ``FORMATS``.

    Returns:
        The file's content, UTF-8 text except for ``parquet``.
    """
    return render_pages([retention_page(each) for each in retentions], form, "retention")


def format_forgetting(forgetting: Forgetting, value: float, low: float | None, high: float | None) -> tuple[str, str]:
    """Format what a method forgot, and its 95 % interval.

    Args:
        forgetting: the forgetting of all methods.
        value: the amount, as a fraction.
        low: lower end of the interval; None if it is unknown.
        high: upper end of the interval.
    """
    known = low is not None and high is not None
    interval = f"{100 * (low or 0):+.2f} – {100 * (high or 0):+.2f}" if known else "unknown"
    return forgetting.format(value), interval


def retention_document(retention: Retention) -> dict[str, Any]:
    """Return a comparison as a JSON document.

    Args:
        retention: the comparison.
    """
    forgetting = retention.forgetting
    return {
        "task": retention.task,
        "model": retention.model,
        "metric": retention.metric,
        "split": retention.test_split,
        "higher_is_better": retention.higher_is_better,
        **forgetting_document(forgetting),
        "methods": [asdict(row) for row in retention.rows],
        "front": [row.method for row in retention.rows if row.on_front],
        "notes": _notes(retention),
    }


def forgetting_document(forgetting: Forgetting) -> dict[str, Any]:
    """Return what forgetting is measured by as a JSON document.

    Args:
        forgetting: the forgetting of all methods.
    """
    return {
        "probe": forgetting.probe,
        "probe_metric": forgetting.metric,
        "probe_higher_is_better": forgetting.higher_is_better,
        "relative": forgetting.relative,
        "base": forgetting.base,
        "examples": forgetting.num_examples,
    }


def retention_rows(retention: Retention) -> list[TableRow]:
    """Build the table, header first.

    Args:
        retention: the comparison.
    """
    heads = ("method", "score", "95 % interval", "forgotten", "95 % interval", "P(front)", "seeds")
    return [heads, *(_cells(retention, row) for row in retention.rows)]


def _cells(retention: Retention, row: RetentionRow) -> TableRow:
    score_interval = "unknown" if row.low is None or row.high is None else f"{row.low:.4f} – {row.high:.4f}"
    forgotten = format_forgetting(retention.forgetting, row.forgotten, row.forgotten_low, row.forgotten_high)
    front = "" if row.front is None else format_percent(row.front)
    return (
        row.method + (" *" if row.on_front else ""),
        f"{row.score:.4f}",
        score_interval,
        *forgotten,
        front,
        str(row.seeds),
    )


def retention_page(retention: Retention) -> Page:
    """Build the page of a comparison of learning and forgetting.

    Args:
        retention: the comparison.
    """
    forgetting = retention.forgetting
    title = (
        f"{retention.task} with {retention.model}: {retention.test_split} {retention.metric}, and what is forgotten of "
        f"{forgetting.metric} on {forgetting.probe}"
    )
    shared = retention_document(retention)
    common = {key: value for key, value in shared.items() if key not in ("methods", "front", "notes")}
    records: list[Mapping[str, Any]] = [{**common, **asdict(row)} for row in retention.rows]
    return Page(title, retention_rows(retention), _notes(retention), shared, records, _sentences(retention), wide=True)


def _sentences(retention: Retention) -> list[str]:
    on_front = [row.method for row in retention.rows if row.on_front]
    if not on_front:
        return ["No method has several seeds, so none is compared; run each method with at least two seeds."]
    return [f"On the front of learning and forgetting: {comma_separated(on_front)}."]


def _notes(retention: Retention) -> list[str]:
    forgetting = retention.forgetting
    unit = "as a share of the base model's value" if forgetting.relative else "in points"
    varied = (
        f"{forgetting.num_examples:,} examples and seeds"
        if forgetting.num_examples
        else "seeds only: no examples stored"
    )
    return [
        f"forgotten: worse than the base model ({forgetting.metric} {forgetting.base:.4f}), {unit}; below zero "
        "is better",
        f"intervals of what is forgotten: paired with the base model, over {varied}",
        "* on the front: with a probability of at least one half, no other method learns more and forgets less; "
        "the two are drawn independently",
        *retention.remarks,
    ]


def advice_document(advice: RetentionAdvice) -> dict[str, Any]:
    """Return what is forgotten, and how surely within the limit, as a JSON document.

    Args:
        advice: the advice.
    """
    estimates = advice.forgetting.posterior.estimates
    methods = [
        {
            "method": name,
            "forgotten": each.score,
            "low": each.low,
            "high": each.high,
            "within": advice.within.get(name),
        }
        for name, each in estimates.items()
    ]
    limited = {"limit": advice.limit, **forgetting_document(advice.forgetting), "methods": methods}
    return {"forgetting": limited, "sentences": [*advice.sentences]}


def advice_page(advice: RetentionAdvice, ranking: Page | None) -> Page:
    """Build the page of an advice: the ranking of the candidates, with what all methods forget.

    Args:
        advice: the advice.
        ranking: the page of the ranking; None if no method is a candidate.
    """
    forgetting, estimates = advice.forgetting, advice.forgetting.posterior.estimates
    most = forgetting.format(advice.limit).lstrip("+")
    cells = {
        name: (*format_forgetting(forgetting, each.score, each.low, each.high), _percent(advice.within.get(name)))
        for name, each in estimates.items()
    }
    heads = ("forgotten", "95 % interval", f"P(≤ {most})")
    scope = f"forgetting at most {most} of {forgetting.metric} on {forgetting.probe}"
    notes = [f"forgotten: how much worse than the base model ({forgetting.metric} {forgetting.base:.4f})"]
    if ranking is None:
        rows: list[TableRow] = [("method", *heads), *((name, *each) for name, each in sorted(cells.items()))]
        return Page(scope, rows, notes, {}, [], advice.sentences, wide=True)
    head, *lines = ranking.rows
    rows = [(*head, *heads), *((*line, *cells.get(line[0], ("", "", ""))) for line in lines)]
    others = [f"{name}: {' '.join(cells[name][:2])}" for name in cells if name not in {line[0] for line in lines}]
    notes += [f"forgotten by methods that are not ranked: {'; '.join(others)}"] if others else []
    return Page(f"{ranking.title}, {scope}", rows, [*ranking.notes, *notes], {}, [], advice.sentences, wide=True)


def _percent(probability: float | None) -> str:
    return "" if probability is None else format_percent(probability)
