"""Which method to use within a budget: the verdict of what methods had reached there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from peftkit.compare.curves import cost, peak_memory
from peftkit.compare.evidence import Evidence, evidence_of
from peftkit.compare.gather import Run, Section
from peftkit.compare.notes import notes_of
from peftkit.compare.verdict import Verdict, decide

SHORT = 0.9
"""The share of a budget below which a method's runs count as having ended before it."""


@dataclass(frozen=True)
class Candidate:
    """A method that fits the budget."""

    method: str
    seeds: int
    score: float
    low: float | None
    high: float | None
    best: float | None
    """The probability that it is the best of those that fit; None of one seed."""
    cost: float
    """At which it had reached the score, mean over seeds."""
    peak_memory: float | None
    """Bytes, the most of its seeds; None where that was not measured."""
    ended_at: float | None = None
    """What its runs took in all, where that is less than nine tenths of the budget."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What has to be said of it, each by one word (see ``notes_of``)."""


@dataclass(frozen=True)
class Advice:
    """What to use for one task and model."""

    verdict: Verdict
    candidates: tuple[Candidate, ...]
    """Best first; those of one seed come last."""
    left_out: tuple[tuple[str, str], ...]
    """Methods that were not considered, with the reasons."""
    baselines: Mapping[str, float]
    """What models score that read nothing, as far as runs record it."""
    remarks: tuple[str, ...]
    """What every conclusion has to say (see ``Section``)."""


def advise(
    section: Section,
    axis: str,
    budget: float,
    *,
    memory: float | None = None,
    metric: str | None = None,
    margin: float | None = None,
    baseline: str = "full",
) -> Advice:
    """Ranks the methods of a section by what they had reached within a budget.

    Scores, intervals and probabilities are those of ``compare``, from the same posterior, of the methods that fit.

    Args:
        section: the runs.
        axis: what the budget is of.
        budget: how much.
        memory: the most bytes that training may have taken at its peak.
        metric: what counts on test; None for what selects on dev.
        margin: the difference in score that does not matter; None for a point of a share, 1 % of other scores.
        baseline: the method that others are measured by, if it is there.

    Raises:
        InputError: the runs have not measured the axis or the metric, or are of different test examples.
    """
    evidence = evidence_of(section, axis, metric=metric, budget=budget, memory=memory, margin=margin)
    candidates = [_candidate(evidence, label, of) for label, of in evidence.section.runs.items()]
    candidates.sort(key=lambda each: (each.best is None, -evidence.sign * each.score, evidence.spent[each.method]))
    return Advice(decide(evidence, baseline), tuple(candidates), evidence.left_out, evidence.baselines, section.remarks)


def _candidate(evidence: Evidence, label: str, of: Mapping[int, Run]) -> Candidate:
    estimate = evidence.posterior.estimates[label]
    peaks = [peak_memory(run.summary["cost"]) for run in of.values()]
    trained = min(cost(run.rows[-1], evidence.axis) for run in of.values())
    return Candidate(
        method=label,
        seeds=estimate.seeds,
        score=estimate.score,
        low=estimate.low,
        high=estimate.high,
        best=estimate.best,
        cost=evidence.reached_at[label],
        peak_memory=None if None in peaks else max(each for each in peaks if each is not None),
        ended_at=trained if evidence.budget is not None and trained < SHORT * evidence.budget else None,
        notes=notes_of(evidence.section, label, evidence.metric, off=label in evidence.read_off),
    )
