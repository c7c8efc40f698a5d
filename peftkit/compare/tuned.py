"""What ``tuning.json`` says beside a method's runs: how it was tuned, and whether that was enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftkit.compare.gather import Run

AT_EDGE = "tuning stopped at the edge of its range"


def tuning_of(runs: Mapping[int, Run]) -> Mapping[str, Any] | None:
    """The tuning of a method, which all its seeds have in common; None where nothing was tuned."""
    return next((run.tuning for run in runs.values() if run.tuning), None)


def edges(tuning: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The keys at whose end the best setting is, those of a new head among them, in words."""
    if not tuning:
        return ()
    found = [*tuning.get("at_edge", ()), *(tuning.get("head") or {}).get("at_edge", ())]
    return tuple(f"{each['key']} at its {each['end']} end ({each['value']:g})" for each in found)


def transfer(tuning: Mapping[str, Any] | None) -> str:
    """How trials at another budget than the runs' have carried over, in words; empty where they have the same."""
    told = (tuning or {}).get("transfer")
    if not told:
        return ""
    budgets = [
        ", ".join(f"{key}={value:g}" for key, value in told[f"{which}_budget"].items()) for which in ("trials", "final")
    ]
    holds = {
        True: "the order of the leading two settings holds at the final budget",
        False: "the order of the leading two settings does not hold at the final budget",
        None: "the order of the leading two settings at the final budget is not known",
    }
    return f"tuned at a budget of {budgets[0]} for runs of {budgets[1]}: {holds[told['order_holds']]}"
