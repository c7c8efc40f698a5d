"""Reads how a method was tuned from ``tuning.json``, which a sweep writes next to the method's runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftkit.compare.input.load_runs import LoadedRun

AT_EDGE = "tuning stopped at the edge of its range"
TRANSFER_STAGE = "transfer"
"""The stage of trials at the final runs' budget, which the other trials do not have."""


def tuning_record(runs: Mapping[int, LoadedRun]) -> Mapping[str, Any] | None:
    """The tuning of a method, which all its seeds share; None if it was not tuned."""
    return next((run.tuning for run in runs.values() if run.tuning), None)


def describe_transfer(tuning: Mapping[str, Any] | None) -> str:
    """Describe whether the ranking at the trials' budget holds at the final budget; empty where both are the same."""
    record = (tuning or {}).get("transfer")
    if not record:
        return ""
    budgets = [
        ", ".join(f"{key}={value:g}" for key, value in record[f"{which}_budget"].items())
        for which in ("trials", "final")
    ]
    outcome = {
        True: "the order of the two best settings holds at the final budget",
        False: "the order of the two best settings does not hold at the final budget",
        None: "the order of the two best settings at the final budget is unknown",
    }
    return f"tuned at a budget of {budgets[0]} for runs of {budgets[1]}: {outcome[record['order_holds']]}"
