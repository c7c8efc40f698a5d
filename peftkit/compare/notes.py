"""Notes on single methods: one word in a table's row, and what it means below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftkit.compare.gather import Section
from peftkit.compare.tuned import AT_EDGE, transfer, tuning_of
from peftkit.runs import tuning_edges

READ_OFF = "read off longer runs"
LEAKS = "teacher_forced_"
"""How metrics are called whose scores were taken while the model was given the right answer."""
BASELINE = "a model that reads nothing"


def notes_of(section: Section, label: str, metric: str, *, off: bool = False) -> Mapping[str, str]:
    """The notes on a method: by the word that a table's row has, what it means for that method.

    Args:
        section: the runs.
        label: the method.
        metric: the metric that methods are compared by.
        off: whether a score of it within a budget is read off longer runs.
    """
    of = section.runs[label]
    tuning, found = tuning_of(of), {}
    if len(of) == 1:
        found["one seed"] = "score and interval are of this run, and say nothing about the method"
    if edges := tuning_edges(tuning):
        found["edge"] = f"{AT_EDGE} ({', '.join(edges)})"
    if carried := transfer(tuning):
        found["transfer"] = carried
    if metric.startswith(LEAKS):
        found["leaked"] = "scores were taken while the model was given the right answer"
    if systems := dict.fromkeys(run.imported for run in of.values() if run.imported):
        found["imported"] = f"results of {', '.join(systems)}"
    if section.pooled:
        found["pooled"] = f"compared although they differ: {', '.join(section.pooled)}"
    if off:
        found["read off"] = f"within a budget, its score is {READ_OFF} whose learning rate had not decayed"
    return found


def tuning_notes(at_edge: Mapping[str, Sequence[str]], transfers: Mapping[str, str]) -> list[str]:
    """The notes on how methods were tuned.

    Args:
        at_edge: by method, where its tuning stopped at the edge of its range.
        transfers: by method, how trials at another budget have carried over.
    """
    edges = [f"{AT_EDGE}: {method}: {', '.join(where)}" for method, where in at_edge.items() if where]
    return edges + [f"{method}: {text}" for method, text in transfers.items() if text]
