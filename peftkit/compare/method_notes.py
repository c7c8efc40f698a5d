"""Notes on methods: a keyword in a row of a table, explained below it, and how they were tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.tuning_records import AT_EDGE, describe_transfer, tuning_record
from peftkit.run_directory import tuning_edges

READ_OFF_NOTE = "read off longer runs"
TEACHER_FORCED_PREFIX = "teacher_forced_"
"""Prefix of metrics whose scores were computed under teacher forcing, so that the answer leaks."""
BASELINE_NOTE = "input-blind"


def method_notes(group: RunGroup, label: str, metric: str, *, off: bool = False) -> Mapping[str, str]:
    """Collect the notes on a method.

    Args:
        group: the runs.
        label: the method.
        metric: the metric that methods are compared by.
        off: whether its score within a budget is read off longer runs.

    Returns:
        The explanation for each keyword of the table row.
    """
    runs = group.runs[label]
    tuning, notes = tuning_record(runs), {}
    if len(runs) == 1:
        notes["one seed"] = "score and interval are of this run only, not of the method"
    if edges := tuning_edges(tuning):
        notes["edge"] = f"{AT_EDGE} ({', '.join(edges)})"
    if carried_over := describe_transfer(tuning):
        notes["transfer"] = carried_over
    if stopped := [run.summary["stopped_early"] for run in runs.values() if run.summary.get("stopped_early")]:
        causes = ", ".join(dict.fromkeys(str(stop["callback"]) for stop in stopped))
        notes["stopped early"] = f"{len(stopped)} of {len(runs)} runs ended before the budget was used ({causes})"
    if metric.startswith(TEACHER_FORCED_PREFIX):
        notes["leaked"] = "scores are teacher-forced, which leaks the answer"
    if systems := dict.fromkeys(run.imported_from for run in runs.values() if run.imported_from):
        notes["imported"] = f"results of {', '.join(systems)}"
    if group.pooled:
        notes["pooled"] = f"compared although they differ: {', '.join(group.pooled)}"
    if off:
        notes["read off"] = f"its score within a budget is {READ_OFF_NOTE}, whose learning rate had not decayed"
    return notes


def tuning_notes(at_edge: Mapping[str, Sequence[str]], transfers: Mapping[str, str]) -> list[str]:
    """Format the notes on how methods were tuned.

    Args:
        at_edge: by method, the keys whose best value is at the edge of the tuned range.
        transfers: by method, how trials at another budget carry over to the final one.

    Returns:
        One line per note.
    """
    edges = [f"{AT_EDGE}: {method}: {', '.join(keys)}" for method, keys in at_edge.items() if keys]
    return edges + [f"{method}: {text}" for method, text in transfers.items() if text]
