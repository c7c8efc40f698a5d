"""Writes comparisons as text, JSON, CSV, Parquet, LaTeX or Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

from peftkit.compare.comparison import Comparison, MethodRow
from peftkit.compare.method_notes import BASELINE_NOTE
from peftkit.compare.output.table_notes import notes
from peftkit.compare.verdict import format_percent

TableRow = tuple[str, ...]
LINE_WIDTH = 80
"""The line length, in characters, of tables without the ``wide`` columns."""
FORMATS = ("table", "json", "csv", "parquet", "latex", "markdown")


@dataclass(frozen=True)
class Page:
    """A table with its title and notes, and the same content as records."""

    title: str
    rows: Sequence[TableRow]
    """The table, header first."""
    notes: Sequence[str]
    document: Mapping[str, Any]
    """The content as a JSON document."""
    records: Sequence[Mapping[str, Any]]
    """The content as rows of CSV and Parquet, which have the same keys."""
    lead: Sequence[str] = ()
    """Sentences above the table."""
    wide: bool = True
    """Whether the table may be wider than ``LINE_WIDTH``."""


def render(comparisons: Sequence[Comparison], form: str, *, wide: bool = False) -> bytes:
    """Write comparisons in one of ``FORMATS``.

    Args:
        comparisons: one per task and model.
        form: the output format.
        wide: whether tables have all columns.

    Returns:
        The file's content, UTF-8 text except for ``parquet``.
    """
    flat = flat_records(comparisons)
    pages = [
        Page(
            _title(comparison),
            table_rows(comparison, wide=wide),
            notes(comparison, wide=wide),
            _document(comparison),
            [record for record in flat if (record["task"], record["model"]) == (comparison.task, comparison.model)],
            comparison.verdict.sentences,
            wide,
        )
        for comparison in comparisons
    ]
    return render_pages(pages, form, "comparisons")


def render_pages(pages: Sequence[Page], form: str, name: str) -> bytes:
    """Write pages in one of ``FORMATS``.

    Args:
        pages: the tables.
        form: the output format.
        name: the key of the JSON document under which the pages are listed.

    Returns:
        The file's content, UTF-8 text except for ``parquet``.
    """
    records = [record for page in pages for record in page.records]
    if form == "parquet":
        return _parquet(records)
    if form == "json":
        return (json.dumps({"format": 1, name: [page.document for page in pages]}, indent=2) + "\n").encode()
    if form == "csv":
        return _csv(records).encode()
    write = {"table": _text, "markdown": _markdown, "latex": _latex}[form]
    return ("\n\n".join(map(write, pages)) + "\n").encode()


def _title(comparison: Comparison) -> str:
    score = f"{comparison.test_split} {comparison.metric}"
    return f"{comparison.task} with {comparison.model}: {score} of the checkpoint selected on dev"


def table_rows(comparison: Comparison, *, wide: bool = False) -> list[TableRow]:
    """Build the table, header first; the baselines stand among the methods by score, empty columns are left out.

    Args:
        comparison: the comparison.
        wide: whether to include all columns, or only those that fit into ``LINE_WIDTH`` characters.

    Returns:
        The rows.
    """
    columns: dict[str, Callable[[MethodRow], str]] = {
        "method": lambda row: row.method + (" *" if row.pareto else ""),
        "score": lambda row: f"{row.score:.4f}",
        "95 % interval": _interval,
        "P(best)": lambda row: "" if row.best is None else format_percent(row.best),
        **{name: partial(_beside, name) for name in dict.fromkeys(n for line in comparison.lines for n in line.beside)},
        f"cost ({comparison.by})": _cost,
    }
    if wide:
        columns |= {
            "seeds": lambda row: str(len(row.seeds)),
            "group": lambda row: row.letter,
            "to its best": lambda row: f"{row.cost_to_best:,.4g}",
        }
        for share in comparison.shares:
            columns[f"to {share:.4g} of {comparison.baseline}"] = lambda row, share=share: _reached(row, share)  # type: ignore[misc]
        for name in dict.fromkeys(name for line in comparison.lines for name in line.sets):
            columns[f"on {name}"] = lambda row, name=name: _format_number(row.sets.get(name), 1, ".4f", "")  # type: ignore[misc]
        for name in dict.fromkeys(name for line in comparison.lines for name in line.serving):
            columns[name] = lambda row, name=name: _format_number(row.serving.get(name), 1, ",.4g", "")  # type: ignore[misc]
        columns |= {
            "P(front)": lambda row: "" if row.pareto_probability is None else format_percent(row.pareto_probability),
            "area": _area,
            "tuned": _tuned,
            "parameters": lambda row: _format_number(row.trainable_parameters, 1, ",.0f", ""),
            "checkpoint": lambda row: _format_number(row.checkpoint_bytes, 2**20, ",.2f", " MiB"),
            "memory": lambda row: _format_number(row.peak_memory, 2**30, ".2f", " GiB"),
        }
    columns["note"] = lambda row: ", ".join(row.notes)
    rows: list[tuple[float, dict[str, str]]] = [
        (
            -math.inf if row.best is None else comparison.sign * row.score,
            {name: write(row) for name, write in columns.items()},
        )
        for row in comparison.lines
    ]
    rows += [
        (comparison.sign * score, {"method": baseline, "score": f"{score:.4f}", "note": "baseline"})
        for baseline, score in comparison.baselines.items()
    ]
    rows.sort(key=lambda scored: -scored[0])
    kept = [name for name in columns if any(cells.get(name) for _, cells in rows)]
    return [tuple(kept), *(tuple(cells.get(name, "") for name in kept) for _, cells in rows)]


def _beside(name: str, row: MethodRow) -> str:
    return _format_number(row.beside.get(name), 1, ".4f", "")


def _interval(row: MethodRow) -> str:
    return "unknown" if row.low is None or row.high is None else f"{row.low:.4f} – {row.high:.4f}"


def _cost(row: MethodRow) -> str:
    return f"{row.cost:{',.0f' if row.cost >= 1000 else '.4g'}}" + (
        "" if row.relative_cost is None else f" ({row.relative_cost:.2f})"
    )


def _tuned(row: MethodRow) -> str:
    if row.trials is None:
        return ""
    stopped = "; stopped at the edge of its range" if row.at_edge else ""
    return f"{row.trials} trials, {row.tuning_gmacs:,.4g} GMACs{stopped}"


def _area(row: MethodRow) -> str:
    if row.area is None:
        return ""
    interval = row.area_low is not None and row.area_high is not None
    return f"{row.area:.4f}" + (f" ({row.area_low:.4f} – {row.area_high:.4f})" if interval else "")


def _reached(row: MethodRow, share: float) -> str:
    value, ends = row.cost_to_share[share], row.cost_to_share_interval.get(share)
    if value is not None:
        return f"{value:,.4g}" + (f" ({ends[0]:,.4g} – {ends[1]:,.4g})" if ends else "")
    seeds = len(row.seeds)
    return "never" if row.never[share] == seeds else f"never ({row.never[share]} of {seeds} seeds)"


def _format_number(number: float | None, unit: int, form: str, suffix: str) -> str:
    return "" if number is None else f"{number / unit:{form}}{suffix}"


def _text(page: Page) -> str:
    table = _table(page.rows, None if page.wide else LINE_WIDTH)
    return "\n".join(
        [
            *textwrap.wrap(page.title, LINE_WIDTH),
            *(["", *wrap_lines(page.lead), ""] if page.lead else []),
            table,
            *(["", *wrap_lines(page.notes)] if page.notes else []),
        ]
    )


def wrap_lines(lines: Sequence[str]) -> list[str]:
    """Wrap lines at ``LINE_WIDTH`` characters."""
    return [part for line in lines for part in textwrap.wrap(line, LINE_WIDTH, subsequent_indent="  ")]


def _table(rows: Sequence[TableRow], width: int | None) -> str:
    """Align rows in columns; if they are wider than ``width``, wrap the last column, then the first."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    if width is not None and (over := sum(widths) + 2 * len(widths) - 2 - width) > 0:
        for column, narrowest in ((len(widths) - 1, 10), (0, 16)):
            narrower = max(min(widths[column], narrowest), widths[column] - over)
            over -= widths[column] - narrower
            widths[column] = narrower
    lines = []
    for row in rows:
        cells = [
            textwrap.wrap(cell, size, subsequent_indent="  " if size > 2 else "") or [""]
            for cell, size in zip(row, widths, strict=True)
        ]
        lines += [
            "  ".join(text.ljust(size) for text, size in zip(part, widths, strict=True)).rstrip()
            for part in zip_longest(*cells, fillvalue="")
        ]
    return "\n".join(lines)


def _markdown(page: Page) -> str:
    header, *rows = page.rows
    lines = (header, tuple("---" for _ in header), *rows)
    table = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines]
    lead = [line for sentence in page.lead for line in (sentence, "")]
    return "\n".join([f"### {page.title}", "", *lead, *table, "", *(f"* {note}" for note in page.notes)])


def _latex(page: Page) -> str:
    """The verdict, the table, and the notes in small print, to be included in a paper."""
    header, *lines = (" & ".join(map(escape_latex, row)) + r" \\" for row in page.rows)
    begin = r"\begin{tabular}{" + "l" * len(page.rows[0]) + "}"
    lead, below = (
        [rf"\par\noindent{{\footnotesize {escape_latex(text)}\par}}" for text in texts]
        for texts in (page.lead, page.notes)
    )
    end = (r"\bottomrule", r"\end{tabular}")
    return "\n".join([f"% {page.title}", *lead, begin, r"\toprule", header, r"\midrule", *lines, *end, *below])


def escape_latex(text: str) -> str:
    """Escape the characters of a text that have a meaning in LaTeX."""
    special = {c: rf"\{c}" for c in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "–": "--"}
    return "".join(special.get(character, character) for character in text)


def _document(comparison: Comparison) -> dict[str, Any]:
    document = asdict(comparison)
    document["pairwise"]["note"] = "pairwise tests with Holm's correction, which can differ from the probabilities"
    return {**document, "detectable": comparison.detectable, "notes": notes(comparison, wide=True)}


def flat_records(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """One record per method and per baseline; all have the same keys."""
    records = []
    for comparison in comparisons:
        common = {
            "task": comparison.task,
            "model": comparison.model,
            "metric": comparison.metric,
            "split": comparison.test_split,
            "by": comparison.by,
        }
        use = comparison.verdict.use.method if comparison.verdict.use else None
        for row in comparison.lines:
            record: dict[str, Any] = {**common, "kind": "method", **asdict(row)}
            record["seeds"] = len(row.seeds)
            record["recommended"] = row.method == use
            record["at_edge"] = "; ".join(row.at_edge)
            record["wins_within"] = "; ".join(f"{budget:g}" for budget in row.wins_within)
            record["notes"] = "; ".join(f"{keyword}: {text}" for keyword, text in row.notes.items())
            record["remarks"] = "; ".join(comparison.remarks)
            record["verdict"] = " ".join(comparison.verdict.sentences)
            intervals: Mapping[float, tuple[float, float] | None] = record.pop("cost_to_share_interval")
            for index, end in enumerate(("low", "high")):
                record[f"cost_to_share_{end}"] = {share: each and each[index] for share, each in intervals.items()}
            record |= {name.replace(" ", "_"): value for name, value in record.pop("beside").items()}
            record |= {f"set_{name}": score for name, score in record.pop("sets").items()}
            record |= {f"serving: {name}": value for name, value in record.pop("serving").items()}
            for key in ("cost_to_share", "cost_to_share_low", "cost_to_share_high", "never", "reach_probability"):
                by_share: Mapping[float, Any] = record.pop(key)
                record |= {f"{key}_{share:g}": value for share, value in by_share.items()}
            records.append(record)
        for name, score in comparison.baselines.items():
            records.append(
                {**common, "kind": "baseline", "method": name, "score": score, "notes": f"baseline: {BASELINE_NOTE}"}
            )
    keys = dict.fromkeys(key for record in records for key in record)
    return [{key: record.get(key) for key in keys} for record in records]


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def _parquet(records: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([*records]), file)
    return file.getvalue()
