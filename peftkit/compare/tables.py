"""A comparison as a table: for people, for papers, for other programs."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from peftkit.compare.comparison import Comparison, Line
from peftkit.compare.notes import BASELINE, READ_OFF
from peftkit.compare.quantities import write_cost
from peftkit.compare.verdict import NAMED, percent, write_probability

Row = tuple[str, ...]
WIDTH = 80
"""Characters of a line, unless all columns are asked for."""
FORMS = ("table", "json", "csv", "parquet", "latex", "markdown")


@dataclass(frozen=True)
class Page:
    """A table with its title and its notes, and the same as records."""

    title: str
    rows: Sequence[Row]
    """The heads first."""
    notes: Sequence[str]
    document: Mapping[str, Any]
    """As JSON has it."""
    records: Sequence[Mapping[str, Any]]
    """As CSV and Parquet have them, with the same keys in all."""
    lead: Sequence[str] = ()
    """What stands above the table: the verdict."""
    wide: bool = True
    """Whether the table may be wider than ``WIDTH``."""


def written(found: Sequence[Comparison], form: str, *, wide: bool = False) -> bytes:
    """The comparisons in one of ``FORMS``; all but ``parquet`` are text in UTF-8.

    Args:
        found: the comparisons.
        form: how they are written.
        wide: whether tables have all columns.
    """
    flat = _flat(found)
    pages = [
        Page(
            _head(c),
            rows_of(c, wide=wide),
            notes(c, wide=wide),
            _plain(c),
            [r for r in flat if (r["task"], r["model"]) == (c.task, c.model)],
            c.verdict.sentences,
            wide,
        )
        for c in found
    ]
    return rendered(pages, form, "comparisons")


def rendered(pages: Sequence[Page], form: str, name: str) -> bytes:
    """Pages in one of ``FORMS``; all but ``parquet`` are text in UTF-8.

    Args:
        pages: the tables.
        form: how they are written.
        name: the key of the JSON document that holds them.
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


def _head(found: Comparison) -> str:
    return f"{found.task} with {found.model}: {found.metric} on test of the checkpoint that dev selects"


def notes(found: Comparison, *, wide: bool = False) -> list[str]:
    """What has to be said of a comparison below its table.

    Args:
        found: the comparison.
        wide: whether all columns are shown.
    """
    written = [f"imported: {note}" for note in found.imported]
    if len(found.verdict.not_separable) > NAMED:
        written.append(f"not separable from the best: {', '.join(found.verdict.not_separable)}")
    several = [line for line in found.lines if len(line.seeds) > 1]
    if several:
        written.append(
            "score: expected for new seeds and a new tuning, drawn towards the mean of all methods; P(best): the "
            "probability that it is the highest"
        )
    if found.examples:
        seeds = ", and seeds where there are several" if several else ""
        written.append(f"95 % interval: over {found.examples:,} test examples{seeds}")
    else:
        written.append(f"95 % interval: over seeds alone, since {found.seeds_alone}")
    written += found.remarks
    one = [line for line in found.lines if len(line.seeds) == 1]
    if one:
        written.append(
            f"one seed: score and interval are of this run, and say nothing about the method; another seed of "
            f"{'each' if len(one) > 1 else one[0].method} costs {write_cost(sum(line.cost for line in one), found.by)}"
        )
    words = dict.fromkeys(word for line in found.lines for word in line.notes if word not in ("one seed", "imported"))
    for word in words:
        texts = {line.method: line.notes[word] for line in found.lines if word in line.notes}
        same = len({*texts.values()}) == 1
        every = same and len(texts) == len(found.lines)
        text = next(iter(texts.values()))
        if every or (same and len(texts) > 1):
            written.append(f"{word}: {text}" if every else f"{word}: {', '.join(texts)}: {text}")
        else:
            written += [f"{word}: {method}: {text}" for method, text in texts.items()]
    if found.baselines:
        written.append("baseline: a model that reads nothing; constant gives the one answer that scores highest")
    if wide and several:
        joined = found.pairwise.joined
        written.append(
            "group: pairwise tests (Holm, 5 %), which can differ from P(best); methods that share a letter are not "
            + (f"separated, {joined:,} pairs excepted (JSON has each)" if joined else "separated")
        )
    if wide and found.detectable is not None:
        written.append(
            f"a difference of {found.detectable:.4f} between two methods would be found about four times in five"
        )
    if found.noise is not None:
        written.append(f"re-run noise: {found.noise:.4f}, the standard deviation of {found.repeated} recipes run again")
    if found.baseline and wide:
        written.append(f"to a share: the cost of reaching that share of what {found.baseline} reaches")
    if any(line.pareto for line in found.lines):
        written.append("*: on the Pareto front of score and cost")
    written += [
        f"within {write_cost(winner.budget, found.by)}: {winner.method} ({winner.score:.4f}, "
        f"{write_probability(winner.best, 'P(best)')}){', ' + READ_OFF if winner.read_off else ''}"
        for winner in found.winners
    ]
    if found.by == "gmacs_with_tuning":
        written.append("gmacs_with_tuning: a run's GMACs, and those of all trials of its method and of its new head")
    if found.unmeasured:
        written.append(f"left out, since they have not measured {found.by}: {', '.join(found.unmeasured)}")
    for what, values in found.pooled.items():
        written += [f"pooled although {what} differs: {text}" for text in values]
    return written


def rows_of(found: Comparison, *, wide: bool = False) -> list[Row]:
    """The table with its heads, baselines among the methods by their score.

    Args:
        found: the comparison.
        wide: whether all columns are shown, but for those that would be empty; else those that fit 80 characters.
    """
    columns: dict[str, Callable[[Line], str]] = {
        "method": lambda line: line.method + (" *" if line.pareto else ""),
        "score": lambda line: f"{line.score:.4f}",
        "95 % interval": _interval,
        "P(best)": lambda line: "" if line.best is None else percent(line.best),
        f"cost ({found.by})": _cost,
    }
    if wide:
        columns |= {
            "seeds": lambda line: str(len(line.seeds)),
            "group": lambda line: line.letter,
            "to its best": lambda line: f"{line.cost_to_best:,.4g}",
        }
        for share in found.shares:
            columns[f"to {share:.4g} of {found.baseline}"] = lambda line, share=share: _reached(line, share)  # type: ignore[misc]
        columns |= {
            "P(front)": lambda line: "" if line.pareto_probability is None else percent(line.pareto_probability),
            "area": _area,
            "tuned": _tuned,
            "parameters": lambda line: _written(line.trainable_parameters, 1, ",.0f", ""),
            "checkpoint": lambda line: _written(line.checkpoint_bytes, 2**20, ",.2f", " MiB"),
            "memory": lambda line: _written(line.peak_memory, 2**30, ".2f", " GiB"),
        }
    columns["note"] = lambda line: ", ".join(line.notes)
    rows: list[tuple[float, dict[str, str]]] = [
        (-math.inf if line.best is None else found.sign * line.score, {h: write(line) for h, write in columns.items()})
        for line in found.lines
    ]
    rows += [
        (found.sign * score, {"method": name, "score": f"{score:.4f}", "note": "baseline"})
        for name, score in found.baselines.items()
    ]
    rows.sort(key=lambda each: -each[0])
    kept = [head for head in columns if any(cells.get(head) for _, cells in rows)]
    return [tuple(kept), *(tuple(cells.get(head, "") for head in kept) for _, cells in rows)]


def _interval(line: Line) -> str:
    return "unknown" if line.low is None or line.high is None else f"{line.low:.4f} – {line.high:.4f}"


def _cost(line: Line) -> str:
    return f"{line.cost:{',.0f' if line.cost >= 1000 else '.4g'}}" + (
        "" if line.relative_cost is None else f" ({line.relative_cost:.2f})"
    )


def _tuned(line: Line) -> str:
    if line.trials is None:
        return ""
    stopped = "; stopped at the edge of its range" if line.at_edge else ""
    return f"{line.trials} trials, {line.tuning_gmacs:,.4g} GMACs{stopped}"


def _area(line: Line) -> str:
    if line.area is None:
        return ""
    interval = line.area_low is not None and line.area_high is not None
    return f"{line.area:.4f}" + (f" ({line.area_low:.4f} – {line.area_high:.4f})" if interval else "")


def _reached(line: Line, share: float) -> str:
    value, ends = line.cost_to_share[share], line.cost_to_share_interval.get(share)
    if value is not None:
        return f"{value:,.4g}" + (f" ({ends[0]:,.4g} – {ends[1]:,.4g})" if ends else "")
    seeds = len(line.seeds)
    return "never" if line.never[share] == seeds else f"never ({line.never[share]} of {seeds} seeds)"


def _written(number: float | None, unit: int, form: str, name: str) -> str:
    return "" if number is None else f"{number / unit:{form}}{name}"


def _text(page: Page) -> str:
    table = _table(page.rows, None if page.wide else WIDTH)
    return "\n".join(
        [
            *textwrap.wrap(page.title, WIDTH),
            *(["", *wrapped(page.lead), ""] if page.lead else []),
            table,
            *(["", *wrapped(page.notes)] if page.notes else []),
        ]
    )


def wrapped(lines: Sequence[str]) -> list[str]:
    """Lines of at most ``WIDTH`` characters."""
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]


def _table(rows: Sequence[Row], width: int | None) -> str:
    """The rows in columns; where that is wider than ``width``, the last and the first column are wrapped."""
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
    heads, *rows = page.rows
    lines = (heads, tuple("---" for _ in heads), *rows)
    table = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines]
    lead = [line for sentence in page.lead for line in (sentence, "")]
    return "\n".join([f"### {page.title}", "", *lead, *table, "", *(f"* {note}" for note in page.notes)])


def _latex(page: Page) -> str:
    """The verdict, the table, and below it the notes in small print: a paper that reads the file in shows them."""
    heads, *lines = (" & ".join(map(_escaped, row)) + r" \\" for row in page.rows)
    begin = r"\begin{tabular}{" + "l" * len(page.rows[0]) + "}"
    lead, below = (
        [rf"\par\noindent{{\footnotesize {_escaped(text)}\par}}" for text in texts] for texts in (page.lead, page.notes)
    )
    end = (r"\bottomrule", r"\end{tabular}")
    return "\n".join([f"% {page.title}", *lead, begin, r"\toprule", heads, r"\midrule", *lines, *end, *below])


def _escaped(text: str) -> str:
    special = {c: rf"\{c}" for c in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "–": "--"}
    return "".join(special.get(character, character) for character in text)


def _plain(found: Comparison) -> dict[str, Any]:
    document = asdict(found)
    document["pairwise"]["note"] = "pairwise tests with Holm's correction, which can differ from the probabilities"
    return {**document, "detectable": found.detectable, "notes": notes(found, wide=True)}


def _flat(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """A row for each method and each baseline, the same keys in all."""
    rows = []
    for c in found:
        common = {"task": c.task, "model": c.model, "metric": c.metric, "by": c.by}
        use = c.verdict.use.method if c.verdict.use else None
        for line in c.lines:
            row: dict[str, Any] = {**common, "kind": "method", **asdict(line)}
            row["seeds"] = len(line.seeds)
            row["recommended"] = line.method == use
            row["at_edge"] = "; ".join(line.at_edge)
            row["wins_within"] = "; ".join(f"{budget:g}" for budget in line.wins_within)
            row["notes"] = "; ".join(f"{word}: {text}" for word, text in line.notes.items())
            row["remarks"] = "; ".join(c.remarks)
            row["verdict"] = " ".join(c.verdict.sentences)
            ends: Mapping[float, tuple[float, float] | None] = row.pop("cost_to_share_interval")
            for place, end in enumerate(("low", "high")):
                row[f"cost_to_share_{end}"] = {share: each and each[place] for share, each in ends.items()}
            for key in ("cost_to_share", "cost_to_share_low", "cost_to_share_high", "never", "reach_probability"):
                of: Mapping[float, Any] = row.pop(key)
                row |= {f"{key}_{share:g}": value for share, value in of.items()}
            rows.append(row)
        for name, score in c.baselines.items():
            rows.append(
                {**common, "kind": "baseline", "method": name, "score": score, "notes": f"baseline: {BASELINE}"}
            )
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in keys} for row in rows]


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
