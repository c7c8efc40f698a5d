"""The criteria that the statistics of ``compare`` must meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calibration.scenarios import PI

CLAIM = 0.95
"""A P(best) from which on a scenario counts as having a claim."""


def split_null(results: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split results into those of null scenarios, whose methods are equal, and the others."""
    return [r for r in results if r["spread"] == 0], [r for r in results if r["spread"] > 0]


def criteria(results: Sequence[dict[str, Any]]) -> list[tuple[str, str, bool | None]]:
    """Evaluate the criteria.

    Returns:
        For each criterion its text, the result, and whether it is met; None if no scenario tests it.
    """
    null, others = split_null(results)
    return [*_coverage_criteria(results), *_claim_criteria(null, others), *_holm_criteria(null)]


def _coverage_criteria(results: Sequence[dict[str, Any]]) -> list[tuple[str, str, bool | None]]:
    by_level = {
        (name, level): float(np.mean([r["coverage"] for r in results if r[name] == level]))
        for name in PI
        for level in {r[name] for r in results}
    }
    low, high = min(by_level, key=by_level.__getitem__), max(by_level, key=by_level.__getitem__)
    too_high = [level for level, share in by_level.items() if share > 0.97 and level != ("seeds", 2)]
    overall = float(np.mean([r["coverage"] for r in results]))
    cells = mean_by_cell(results, "coverage", ("methods", "seeds", "examples"))
    worst = min(cells, key=cells.__getitem__)
    inside = all(r["inside"] and r["width"] > 0 for r in results)
    return [
        ("95 % intervals of scores cover 94–96 % over π", f"{overall:.3f}", 0.94 <= overall <= 0.96),
        (
            "and 93–97 % at each level of a factor (with two seeds, more)",
            f"{by_level[low]:.3f} ({_join(low)}) to {by_level[high]:.3f} ({_join(high)})",
            by_level[low] >= 0.93 and not too_high,
        ),
        ("and at least 90 % in each cell", _format_cell(worst, cells), cells[worst][0] >= 0.9),
        ("shares stay in [0, 1], and all intervals have a width above zero", "yes" if inside else "no", inside),
    ]


def _claim_criteria(
    null: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
) -> list[tuple[str, str, bool | None]]:
    gaps = {decile: share - stated for decile, number, stated, share in best_by_decile(others) if number >= 300}
    largest = max(gaps, key=lambda decile: abs(gaps[decile]), default=None)
    claims = [r["claim_right"] for r in others if r["claim"] >= CLAIM]
    false_claims = [r["claim"] >= CLAIM for r in null]
    return [
        (
            "in each decile of P(best) with 300 statements, the share of correct ones is within 5 points",
            "none" if largest is None else f"{gaps[largest]:+.3f} ({largest})",
            None if largest is None else abs(gaps[largest]) <= 0.05,
        ),
        (
            "at least 93 % of claims (P(best) of 95 % or more) are correct",
            f"{np.mean(claims):.3f}" if claims else "none",
            bool(np.mean(claims) >= 0.93) if claims else None,
        ),
        (
            "at most 5 % of null scenarios have a claim",
            f"{np.mean(false_claims):.3f}" if null else "none",
            bool(np.mean(false_claims) <= 0.05) if null else None,
        ),
    ]


def _holm_criteria(null: Sequence[dict[str, Any]]) -> list[tuple[str, str, bool | None]]:
    # The result of a null scenario is binary: cells that also fix the number of examples would have too few scenarios.
    errors = mean_by_cell([r for r in null if r["holm"] is not None], "holm", ("methods", "seeds"))
    highest = max(errors, key=errors.__getitem__, default=None)
    family_wise = float(np.mean([r["holm"] for r in null])) if null else 0.0
    return [
        (
            "Holm's family-wise error is at most 6 % over null scenarios",
            f"{family_wise:.3f}" if null else "none",
            family_wise <= 0.06 if null else None,
        ),
        (
            "and at most 8 % in each cell of methods and seeds",
            "none" if highest is None else _format_cell(highest, errors),
            None if highest is None else errors[highest][0] <= 0.08,
        ),
    ]


def mean_by_cell(
    results: Sequence[dict[str, Any]], key: str, factors: Sequence[str]
) -> dict[tuple[Any, ...], tuple[float, int]]:
    """Compute the mean of a value, and the number of scenarios, in each cell of some factors.

    Args:
        results: what ``assess`` returned.
        key: the value.
        factors: the factors whose levels define a cell.
    """
    values: dict[tuple[Any, ...], list[float]] = {}
    for result in results:
        values.setdefault(tuple(result[factor] for factor in factors), []).append(result[key])
    return {cell: (float(np.mean(each)), len(each)) for cell, each in sorted(values.items())}


def best_by_decile(results: Sequence[dict[str, Any]]) -> list[tuple[str, int, float, float]]:
    """For each decile of P(best): the decile, the number of statements, their mean, and the share of correct ones."""
    stated = np.array([each for r in results for each in r["best"]], dtype=float).reshape(-1, 2)
    number = np.minimum((stated[:, 0] * 10).astype(int), 9)
    rows = []
    for decile in np.unique(number):
        inside = stated[number == decile]
        rows.append((f"{decile / 10:.1f}–{(decile + 1) / 10:.1f}", len(inside), *inside.mean(0).tolist()))
    return rows


def _join(cell: tuple[Any, ...]) -> str:
    return " × ".join(map(str, cell))


def _format_cell(cell: tuple[Any, ...], cells: Mapping[tuple[Any, ...], tuple[float, int]]) -> str:
    share, number = cells[cell]
    return f"{share:.3f} ({_join(cell)}, {number} scenarios)"
