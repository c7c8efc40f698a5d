"""The verb ``advise``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from peftkit.cli.comparing import gathered
from peftkit.compare.advice import Advice, Candidate, advise
from peftkit.compare.quantities import parse_budget, parse_bytes, write_cost
from peftkit.compare.tables import Page, Row, rendered
from peftkit.compare.verdict import percent


def advise_method(
    paths: Sequence[str],
    *,
    budget: str,
    memory: str,
    metric: str | None,
    baseline: str,
    margin: float | None,
    pool: Sequence[str],
    match: str | None,
    as_json: bool,
) -> int:
    """Prints which method to use within a budget; the exit code is 1 where the evidence is too thin for all tasks.

    Raises:
        InputError: the budget cannot be read, there are no runs, or they cannot be compared.
    """
    axis, amount = parse_budget(budget)
    most = parse_bytes(memory) if memory else None
    options: Any = {"memory": most, "metric": metric, "margin": margin, "baseline": baseline}
    found = [advise(each, axis, amount, **options) for each in gathered(paths, pool, match)]
    if as_json:
        print(json.dumps({"format": 2, "advice": [asdict(each) for each in found]}, indent=2))
    else:
        print(rendered([_page(each) for each in found], "table", "advice").decode(), end="")
    return 0 if any(each.verdict.use for each in found) else 1


def _page(found: Advice) -> Page:
    verdict = found.verdict
    heads = ("method", "score", "95 % interval", "P(best)", f"reached at ({verdict.axis})", "note")
    sign = 1.0 if verdict.higher_is_better else -1.0
    ranked = [(-math.inf if each.best is None else sign * each.score, _row(each)) for each in found.candidates]
    ranked += [
        (sign * score, (name, f"{score:.4f}", "", "", "", "baseline")) for name, score in found.baselines.items()
    ]
    rows = [row for _, row in sorted(ranked, key=lambda each: -each[0])]
    notes = list(found.remarks)
    for each in found.candidates:
        notes += [f"{word}: {each.method}: {text}" for word, text in each.notes.items()]
        if each.ended_at is not None:
            notes.append(f"ended before: {each.method}: its runs ended at {write_cost(each.ended_at, verdict.axis)}")
    notes += [f"not considered: {method}: {reason}" for method, reason in found.left_out]
    title = f"{verdict.task} with {verdict.model}, within {write_cost(verdict.budget or 0.0, verdict.axis)}"
    return Page(title, [heads, *rows], notes, {}, [], verdict.sentences, wide=False)


def _row(each: Candidate) -> Row:
    return (
        each.method,
        f"{each.score:.4f}",
        "unknown" if each.low is None or each.high is None else f"{each.low:.4f} – {each.high:.4f}",
        "" if each.best is None else percent(each.best),
        f"{each.cost:,.4g}",
        ", ".join([*each.notes, *([] if each.ended_at is None else ["ended before"])]),
    )
