"""A comparison as a table: for people, for papers, for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from peftkit.compare.comparison import Comparison, Line

Row = tuple[str, ...]
FORMS = ("table", "json", "csv", "parquet", "latex", "markdown")


def written(found: Sequence[Comparison], form: str) -> bytes:
    """The comparisons in one of ``FORMS``; all but ``parquet`` are text in UTF-8."""
    if form == "parquet":
        return _parquet(found)
    if form == "json":
        return (json.dumps({"format": 1, "comparisons": [_plain(c) for c in found]}, indent=2) + "\n").encode()
    if form == "csv":
        return _csv(found).encode()
    write = {"table": _page, "markdown": _markdown, "latex": _latex}[form]
    return ("\n\n".join(map(write, found)) + "\n").encode()


def _head(found: Comparison) -> str:
    return f"{found.task} with {found.model}: {found.metric} on test, of what dev selects; cost in {found.by}"


def _page(found: Comparison) -> str:
    return "\n".join([_head(found), _table(rows_of(found)), *notes(found)])


def notes(found: Comparison) -> list[str]:
    """What has to be said of a comparison beside its table."""
    told = [f"imported: {note}" for note in found.imported]
    if found.examples:
        told.append(f"intervals: {found.examples:,} test examples drawn anew, and seeds where there are several")
    else:
        told.append(f"intervals: seeds alone, since {found.seeds_alone}")
    told += found.remarks
    joined = found.verdict.joined
    told.append(
        "methods with a letter in common cannot be told apart (Holm, 5 %)"
        if not joined
        else "methods without a letter in common are told apart (Holm, 5 %), "
        f"and so are {joined:,} pairs with one, for want of letters (json has each)"
    )
    told.append("best: the probability that it is")
    if any(len(line.seeds) == 1 for line in found.lines):
        told.append("one seed: how seeds vary is not known, so that runs are told apart and not methods")
    if found.detectable is not None:
        told.append(f"a difference of {found.detectable:.4f} between two would be found about four times in five")
    if found.noise is not None:
        told.append(f"re-run noise: {found.noise:.4f} is the standard deviation of {found.repeated} recipes run again")
    if found.baseline:
        told.append(f"to a share: the cost of so much of what {found.baseline} reaches; * on the Pareto front")
    else:
        told.append("* on the Pareto front")
    for budget, method, value in found.winners:
        told.append(f"within {budget:,.4g} {found.by}: {method} ({value:.4f})")
    if found.unmeasured:
        told.append(f"left out, since they have not measured {found.by}: {', '.join(found.unmeasured)}")
    for what, values in found.pooled.items():
        told += [f"pooled although {what} differs: {text}" for text in values]
    return told


def rows_of(found: Comparison) -> list[Row]:
    """The table with its heads; columns that nothing would stand in are left out."""
    columns: dict[str, Callable[[Line], str]] = {
        "method": lambda line: line.method + (" *" if line.pareto else ""),
        "seeds": lambda line: str(len(line.seeds)),
        "score": lambda line: f"{line.score:.4f}",
        "95 % interval": lambda line: "unknown" if line.low is None else f"{line.low:.4f} – {line.high:.4f}",
        "group": lambda line: line.letter,
        "best": lambda line: "unknown" if line.best is None else f"{line.best:.0%}",
        "cost": lambda line: (
            f"{line.cost:,.4g}" + ("" if line.relative_cost is None else f" ({line.relative_cost:.2f})")
        ),
        "to its best": lambda line: f"{line.cost_to_best:,.4g}",
    }
    for share in found.shares:
        columns[f"to {share:.4g} of {found.baseline}"] = lambda line, share=share: _reached(line, share)  # type: ignore[misc]
    columns |= {
        "area": lambda line: "" if line.area is None else f"{line.area:.4f}",
        "tuned": lambda line: "" if line.trials is None else f"{line.trials} trials, {line.tuning_gmacs:,.4g} GMACs",
        "parameters": lambda line: _told(line.trainable_parameters, 1, ",.0f", ""),
        "checkpoint": lambda line: _told(line.checkpoint_bytes, 2**20, ",.2f", " MiB"),
        "memory": lambda line: _told(line.peak_memory, 2**30, ".2f", " GiB"),
    }
    cells = {head: [tell(line) for line in found.lines] for head, tell in columns.items()}
    kept = {head: told for head, told in cells.items() if any(told)}
    return [tuple(kept), *zip(*kept.values(), strict=True)]


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


def _markdown(found: Comparison) -> str:
    heads, *rows = rows_of(found)
    lines = (heads, tuple("---" for _ in heads), *rows)
    table = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines]
    return "\n".join([f"### {_head(found)}", "", *table, "", *(f"* {note}" for note in notes(found))])


def _latex(found: Comparison) -> str:
    """What is not the table is comments, so that the file can be read in as it is."""
    rows = rows_of(found)
    heads, *lines = (" & ".join(map(_escaped, row)) + r" \\" for row in rows)
    begin = r"\begin{tabular}{" + "l" * len(rows[0]) + "}"
    told = (f"% {note}" for note in notes(found))
    end = (r"\bottomrule", r"\end{tabular}")
    return "\n".join([f"% {_head(found)}", begin, r"\toprule", heads, r"\midrule", *lines, *end, *told])


def _escaped(text: str) -> str:
    special = {c: rf"\{c}" for c in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "–": "--"}
    return "".join(special.get(character, character) for character in text)


def _plain(found: Comparison) -> dict[str, Any]:
    return {**asdict(found), "detectable": found.detectable}


def _flat(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """A row for each method, the same keys in all."""
    rows = []
    for c in found:
        for line in c.lines:
            told: dict[str, Any] = {"task": c.task, "model": c.model, "metric": c.metric, "by": c.by, **asdict(line)}
            told["seeds"] = len(line.seeds)
            told["remarks"] = "; ".join(c.remarks)
            for key in ("cost_to_share", "never"):
                of: Mapping[float, Any] = told.pop(key)
                told |= {f"{key}_{share:g}": value for share, value in of.items()}
            rows.append(told)
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in keys} for row in rows]


def _csv(found: Sequence[Comparison]) -> str:
    file = io.StringIO()
    rows = _flat(found)
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _parquet(found: Sequence[Comparison]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(_flat(found)), file)
    return file.getvalue()
