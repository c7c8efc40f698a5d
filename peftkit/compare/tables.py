"""A comparison as a table: for people, for papers, for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from peftkit.compare.comparison import Comparison, Line, Winner
from peftkit.compare.tuned import AT_EDGE

Row = tuple[str, ...]
READ_OFF = "read off longer runs"
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


def written(found: Sequence[Comparison], form: str) -> bytes:
    """The comparisons in one of ``FORMS``; all but ``parquet`` are text in UTF-8."""
    flat = _flat(found)
    pages = [
        Page(
            _head(c), rows_of(c), notes(c), _plain(c), [r for r in flat if (r["task"], r["model"]) == (c.task, c.model)]
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
    return f"{found.task} with {found.model}: {found.metric} on test, of what dev selects; cost in {found.by}"


def _text(page: Page) -> str:
    return "\n".join([page.title, _table(page.rows), *page.notes])


def notes(found: Comparison) -> list[str]:
    """What has to be said of a comparison beside its table."""
    told = [f"imported: {note}" for note in found.imported]
    if found.examples:
        told.append(
            f"intervals: of the expected score over {found.examples:,} test examples, and seeds where there are several"
        )
    else:
        told.append(f"intervals: by seeds alone, since {found.seeds_alone}")
    told += found.remarks
    several = [line for line in found.lines if len(line.seeds) > 1]
    if several:
        joined = found.verdict.joined
        told.append(
            "group: pairwise tests (Holm, 5 %), which can differ from the probabilities; methods that share a letter "
            + (f"are not told apart, {joined:,} pairs excepted (JSON has each)" if joined else "are not told apart")
        )
        told.append(
            "score and best: the expected score, drawn to that of all methods, and the probability of the highest"
        )
    one = [line for line in found.lines if len(line.seeds) == 1]
    if one:
        told.append(
            f"one seed: score and interval are of this run, and say nothing of the method; another seed of "
            f"{'each' if len(one) > 1 else one[0].method} costs {sum(line.cost for line in one):,.4g} {found.by}"
        )
    if found.detectable is not None:
        told.append(f"a difference of {found.detectable:.4f} between two would be found about four times in five")
    if found.noise is not None:
        told.append(f"re-run noise: {found.noise:.4f} is the standard deviation of {found.repeated} recipes run again")
    if found.baseline:
        told.append(f"to a share: the cost of so much of what {found.baseline} reaches; * on the Pareto front")
    else:
        told.append("* on the Pareto front")
    told += [
        f"within {winner.budget:,.4g} {found.by}: {winner.method} ({winner.score:.4f}){read_off(winner)}"
        for winner in found.winners
    ]
    told += tuning_notes(
        {line.method: line.at_edge for line in found.lines}, {x.method: x.transfer for x in found.lines}
    )
    if found.by == "gmacs_with_tuning":
        told.append("gmacs_with_tuning: a run's GMACs, and those of all trials of its method and of its new head")
    if found.unmeasured:
        told.append(f"left out, since they have not measured {found.by}: {', '.join(found.unmeasured)}")
    for what, values in found.pooled.items():
        told += [f"pooled although {what} differs: {text}" for text in values]
    return told


def read_off(winner: Winner) -> str:
    """What has to be said of a winner within a budget that its runs did not end at."""
    return f", {READ_OFF}" if winner.read_off else ""


def tuning_notes(at_edge: Mapping[str, Sequence[str]], transfers: Mapping[str, str]) -> list[str]:
    """What has to be said of how methods were tuned.

    Args:
        at_edge: by method, where its tuning stopped at the edge of its range.
        transfers: by method, how trials at another budget have carried over.
    """
    told = [f"{AT_EDGE}: {method}: {', '.join(where)}" for method, where in at_edge.items() if where]
    return told + [f"{method}: {text}" for method, text in transfers.items() if text]


def rows_of(found: Comparison) -> list[Row]:
    """The table with its heads; columns that nothing would stand in are left out."""
    columns: dict[str, Callable[[Line], str]] = {
        "method": lambda line: line.method + (" *" if line.pareto else ""),
        "seeds": lambda line: str(len(line.seeds)),
        "score": lambda line: f"{line.score:.4f}",
        "95 % interval": lambda line: "unknown" if line.low is None else f"{line.low:.4f} – {line.high:.4f}",
        "group": lambda line: line.letter,
        "best": lambda line: "" if line.best is None else f"{line.best:.0%}",
        "cost": lambda line: (
            f"{line.cost:,.4g}" + ("" if line.relative_cost is None else f" ({line.relative_cost:.2f})")
        ),
        "to its best": lambda line: f"{line.cost_to_best:,.4g}",
    }
    for share in found.shares:
        columns[f"to {share:.4g} of {found.baseline}"] = lambda line, share=share: _reached(line, share)  # type: ignore[misc]
    columns |= {
        "area": lambda line: "" if line.area is None else f"{line.area:.4f}",
        "tuned": _tuned,
        "parameters": lambda line: _told(line.trainable_parameters, 1, ",.0f", ""),
        "checkpoint": lambda line: _told(line.checkpoint_bytes, 2**20, ",.2f", " MiB"),
        "memory": lambda line: _told(line.peak_memory, 2**30, ".2f", " GiB"),
    }
    cells = {head: [tell(line) for line in found.lines] for head, tell in columns.items()}
    kept = {head: told for head, told in cells.items() if any(told)}
    return [tuple(kept), *zip(*kept.values(), strict=True)]


def _tuned(line: Line) -> str:
    if line.trials is None:
        return ""
    stopped = "; stopped at the edge of its range" if line.at_edge else ""
    return f"{line.trials} trials, {line.tuning_gmacs:,.4g} GMACs{stopped}"


def _reached(line: Line, share: float) -> str:
    value = line.cost_to_share[share]
    if value is not None:
        return f"{value:,.4g}"
    seeds = len(line.seeds)
    return "never" if line.never[share] == seeds else f"never ({line.never[share]} of {seeds} seeds)"


def _told(number: float | None, unit: int, form: str, name: str) -> str:
    return "" if number is None else f"{number / unit:{form}}{name}"


def _table(rows: Sequence[Row]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _markdown(page: Page) -> str:
    heads, *rows = page.rows
    lines = (heads, tuple("---" for _ in heads), *rows)
    table = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines]
    return "\n".join([f"### {page.title}", "", *table, "", *(f"* {note}" for note in page.notes)])


def _latex(page: Page) -> str:
    """The table, and below it the notes in small print: a paper that reads the file in shows them."""
    heads, *lines = (" & ".join(map(_escaped, row)) + r" \\" for row in page.rows)
    begin = r"\begin{tabular}{" + "l" * len(page.rows[0]) + "}"
    told = (rf"\par\noindent{{\footnotesize {_escaped(note)}\par}}" for note in page.notes)
    end = (r"\bottomrule", r"\end{tabular}")
    return "\n".join([f"% {page.title}", begin, r"\toprule", heads, r"\midrule", *lines, *end, *told])


def _escaped(text: str) -> str:
    special = {c: rf"\{c}" for c in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "–": "--"}
    return "".join(special.get(character, character) for character in text)


def _plain(found: Comparison) -> dict[str, Any]:
    told = asdict(found)
    told["verdict"]["note"] = "pairwise tests with Holm's correction, which can differ from the probabilities"
    return {**told, "detectable": found.detectable}


def _flat(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """A row for each method, the same keys in all."""
    rows = []
    for c in found:
        for line in c.lines:
            told: dict[str, Any] = {"task": c.task, "model": c.model, "metric": c.metric, "by": c.by, **asdict(line)}
            told["seeds"] = len(line.seeds)
            told["at_edge"] = "; ".join(line.at_edge)
            told["wins_within"] = "; ".join(f"{budget:g}" for budget in line.wins_within)
            told["read_off"] = READ_OFF if line.read_off else ""
            told["remarks"] = "; ".join(c.remarks)
            ends: Mapping[float, tuple[float, float] | None] = told.pop("cost_to_share_interval")
            for place, end in enumerate(("low", "high")):
                told[f"cost_to_share_{end}"] = {share: each and each[place] for share, each in ends.items()}
            for key in ("cost_to_share", "cost_to_share_low", "cost_to_share_high", "never", "reach_probability"):
                of: Mapping[float, Any] = told.pop(key)
                told |= {f"{key}_{share:g}": value for share, value in of.items()}
            rows.append(told)
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
