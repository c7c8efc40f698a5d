"""The verb ``compare``."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peftkit.compare.comparison import Comparison, compare
from peftkit.compare.gather import find_runs, sections

HEADS = (
    "method",
    "seeds",
    "score",
    "95 % interval",
    "group",
    "best",
    "cost",
    "to share",
    "area",
    "parameters",
    "memory",
)


def compare_runs(
    paths: Sequence[str],
    *,
    by: str,
    metric: str | None,
    baseline: str,
    share: float,
    pool: Sequence[str],
    form: str,
) -> int:
    """Prints what the runs say of their methods.

    Raises:
        InputError: there are no runs, or they cannot be compared.
    """
    runs, problems = find_runs(map(Path, paths))
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    found = [compare(each, by=by, metric=metric, baseline=baseline, share=share) for each in sections(runs, pool)]
    if form == "json":
        print(json.dumps({"format": 1, "comparisons": [asdict(c) for c in found]}, indent=2))
    elif form == "csv":
        print(_csv(found), end="")
    else:
        write = {"table": _table, "markdown": _markdown, "latex": _latex}[form]
        print("\n\n".join(_page(comparison, write) for comparison in found))
    return 0


def _page(found: Comparison, write: Any) -> str:
    head = f"{found.task} with {found.model}: {found.metric} on test, of what dev selects; cost in {found.by}"
    notes = []
    if found.examples:
        notes.append(f"intervals: {found.examples:,} test examples drawn anew, and seeds where there are several")
    else:
        notes.append(f"intervals: seeds alone, since {found.metric} is not the mean of what single examples score")
    notes.append("methods with a letter in common cannot be told apart (Holm, 5 %); best: the probability that it is")
    if found.baseline:
        notes.append(f"to share: the cost of {found.share:.0%} of what {found.baseline} reaches; * on the Pareto front")
    for budget, method, value in found.winners:
        notes.append(f"within {budget:,.4g} {found.by}: {method} ({value:.4f})")
    for what, values in found.pooled.items():
        notes += [f"pooled although {what} differs: {text}" for text in values]
    return "\n".join([head, write(found), *notes])


def _cells(found: Comparison) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for line in found.lines:
        to_share = (
            "" if found.baseline is None else "never" if line.cost_to_share is None else f"{line.cost_to_share:,.4g}"
        )
        relative = "" if line.relative_cost is None else f" ({line.relative_cost:.2f})"
        rows.append(
            (
                line.method + (" *" if line.pareto else ""),
                str(len(line.seeds)),
                f"{line.score:.4f}",
                f"{line.low:.4f} – {line.high:.4f}",
                line.letter,
                f"{line.best:.0%}",
                f"{line.cost:,.4g}{relative}",
                to_share,
                "" if line.area is None else f"{line.area:.4f}",
                f"{line.trainable_parameters:,.0f}",
                f"{line.peak_memory / 2**30:.2f} GiB",
            )
        )
    return rows


def _table(found: Comparison) -> str:
    rows: list[tuple[str, ...]] = [HEADS, *_cells(found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _markdown(found: Comparison) -> str:
    rows: list[tuple[str, ...]] = [HEADS, tuple("---" for _ in HEADS), *_cells(found)]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), ""])


def _latex(found: Comparison) -> str:
    rows = [" & ".join(_escaped(cell) for cell in row) + r" \\" for row in (HEADS, *_cells(found))]
    lines = [r"\begin{tabular}{" + "l" * len(HEADS) + "}", r"\toprule", rows[0], r"\midrule", *rows[1:]]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _escaped(text: str) -> str:
    special = {c: rf"\{c}" for c in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "–": "--"}
    return "".join(special.get(character, character) for character in text)


def _csv(found: Sequence[Comparison]) -> str:
    file = io.StringIO()
    rows = [
        {"task": c.task, "model": c.model, "metric": c.metric, "by": c.by, **asdict(line), "seeds": len(line.seeds)}
        for c in found
        for line in c.lines
    ]
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
