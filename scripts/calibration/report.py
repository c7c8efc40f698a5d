"""Writes the results of a calibration as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from calibration.criteria import CLAIM, best_by_decile, criteria, split_null
from calibration.scenarios import PI


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Format a Markdown table.

    Args:
        header: the names of the columns.
        rows: the cells.
    """
    lines = [header, ["---"] * len(header), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_share(values: Sequence[float]) -> str:
    """Format a mean with its standard error."""
    return f"{float(np.mean(values)):.3f} ± {np.std(values) / max(1, len(values)) ** 0.5:.3f}"


def report(results: Sequence[dict[str, Any]], version: int) -> str:
    """Write all tables.

    Args:
        results: what ``assess`` returned.
        version: the version of the simulation.
    """
    null, others = split_null(results)
    met = {True: "yes", False: "no", None: "unknown"}
    sections = [
        f"{len(others)} scenarios and {len(null)} null scenarios of π, version {version}.",
        f"Coverage of 95 % intervals over π: scores {format_share([r['coverage'] for r in results])}, differences "
        f"{format_share([r['pairs'] for r in results])}; all shares in [0, 1]: {all(r['inside'] for r in results)}; "
        f"narrowest interval: {min(r['width'] for r in results):.2g}.",
        table(
            ["criterion", "result", "met"], ([text, result, met[is_met]] for text, result, is_met in criteria(results))
        ),
        _coverage_by_level(results),
        _coverage_by_cell(results),
        table(
            ["P(best)", "statements", "mean", "correct"],
            ([decile, count, f"{mean:.3f}", f"{share:.3f}"] for decile, count, mean, share in best_by_decile(others)),
        ),
        *_claims(others, null),
        f"Bias of the highest score, mean: {np.mean([r['bias_of_top'] for r in results]):+.4f}.",
        f"Seconds per scenario: {np.mean([r['seconds'] for r in results]):.2f}, at most "
        f"{max(r['seconds'] for r in results):.2f}.",
    ]
    return "\n\n".join(sections)


def _levels(results: Sequence[dict[str, Any]]) -> list[tuple[str, Any]]:
    """The factors of the results with each of their levels."""
    return [(name, level) for name in PI for level in sorted({r[name] for r in results}, key=str)]


def _coverage_by_level(results: Sequence[dict[str, Any]]) -> str:
    rows = []
    for name, level in _levels(results):
        matching = [r for r in results if r[name] == level]
        scores, pairs = (format_share([r[key] for r in matching]) for key in ("coverage", "pairs"))
        rows.append([name, level, len(matching), scores, pairs])
    return table(["factor", "level", "scenarios", "coverage of scores", "of differences"], rows)


def _coverage_by_cell(results: Sequence[dict[str, Any]]) -> str:
    rows = []
    for methods in PI["methods"]:
        for seeds in PI["seeds"]:
            row: list[Any] = [methods, seeds]
            for examples in PI["examples"]:
                cell = (methods, seeds, examples)
                shares = [r["coverage"] for r in results if (r["methods"], r["seeds"], r["examples"]) == cell]
                row.append(f"{np.mean(shares):.3f} ({len(shares)})" if shares else "")
            rows.append(row)
    return table(["methods", "seeds", *(f"{number} examples" for number in PI["examples"])], rows)


def _claims(others: Sequence[dict[str, Any]], null: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Paragraphs on how often claims are correct, and on errors where methods are equal."""
    claims = [r["claim_right"] for r in others if r["claim"] >= CLAIM]
    yield f"Claims (P(best) of 95 % or more): {len(claims)}, correct {np.mean(claims) if claims else float('nan'):.3f}."
    if null:
        yield f"Null scenarios with a claim: {np.mean([r['claim'] >= CLAIM for r in null]):.3f}."
        tested = [r for r in null if r["holm"] is not None]
        cells = []
        for methods in PI["methods"]:
            for seeds in PI["seeds"]:
                errors = [r["holm"] for r in tested if (r["methods"], r["seeds"]) == (methods, seeds)]
                if errors:
                    cells.append(f"{methods}×{seeds}: {np.mean(errors):.3f} ({len(errors)})")
        yield (
            f"Holm's family-wise error over {len(tested)} null scenarios: {np.mean([r['holm'] for r in tested]):.3f}; "
            "by methods and seeds: " + ", ".join(cells)
        )
        shares = [
            f"{name}={level}: {np.mean([r['claim'] >= CLAIM for r in null if r[name] == level]):.3f}"
            for name, level in _levels(null)
        ]
        yield "Null scenarios with a claim, by factor: " + ", ".join(shares)
    if claims:
        parts = []
        for name, level in _levels(others):
            matching = [r["claim_right"] for r in others if r["claim"] >= CLAIM and r[name] == level]
            share = f"{np.mean(matching):.3f} ({len(matching)})" if matching else "none"
            parts.append(f"{name}={level}: {share}")
        yield "Correct claims, by factor: " + ", ".join(parts)
