"""What ``tuning.json`` says beside a method's runs: how it was tuned, and whether that was enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftkit.compare.gather import Run

AT_EDGE = "tuning stopped at the edge of its range"


def tuning_of(runs: Mapping[int, Run]) -> Mapping[str, Any] | None:
    """The tuning of a method, which all its seeds have in common; None where nothing was tuned."""
    return next((run.tuning for run in runs.values() if run.tuning), None)


def transfer(tuning: Mapping[str, Any] | None) -> str:
    """How the order at the trials' budget compares with that at the final one; empty where both are the same budget."""
    record = (tuning or {}).get("transfer")
    if not record:
        return ""
    budgets = [
        ", ".join(f"{key}={value:g}" for key, value in record[f"{which}_budget"].items())
        for which in ("trials", "final")
    ]
    holds = {
        True: "the order of the leading two settings holds at the final budget",
        False: "the order of the leading two settings does not hold at the final budget",
        None: "the order of the leading two settings at the final budget is not known",
    }
    return f"tuned at a budget of {budgets[0]} for runs of {budgets[1]}: {holds[record['order_holds']]}"
