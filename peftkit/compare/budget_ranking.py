"""Ranks methods by the score that they reach within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from peftkit.compare.evidence import Evidence, collect_evidence
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.learning_curves import cost, peak_memory
from peftkit.compare.method_notes import method_notes
from peftkit.compare.verdict import Verdict, decide

ENDED_EARLY_SHARE = 0.9
"""Runs that used less than this share of the budget are reported as having ended before it."""


@dataclass(frozen=True)
class RankedMethod:
    """A method that fits the budget, with its score and cost."""

    method: str
    seeds: int
    score: float
    low: float | None
    high: float | None
    best: float | None
    """The probability that it has the highest expected score of all candidates; None with one seed."""
    cost: float
    """The cost at which the score was reached, mean over seeds."""
    peak_memory: float | None
    """The highest peak memory of its runs, in bytes; None where it was not measured."""
    ended_at: float | None = None
    """The cost of its shortest run, if that is below ``ENDED_EARLY_SHARE`` of the budget; otherwise None."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Notes on the method by keyword (see ``method_notes``)."""


@dataclass(frozen=True)
class BudgetRanking:
    """The methods of one task and model within a budget, and the verdict on them."""

    verdict: Verdict
    candidates: tuple[RankedMethod, ...]
    """Best first; methods with one seed come last."""
    left_out: tuple[tuple[str, str], ...]
    """Methods that were not considered, with the reasons."""
    baselines: Mapping[str, float]
    """Test scores of the input-blind baselines, where recorded."""
    remarks: tuple[str, ...]
    """Caveats that hold for every conclusion (see ``RunGroup``)."""


def rank_within_budget(
    group: RunGroup,
    axis: str,
    budget: float,
    *,
    memory: float | None = None,
    metric: str | None = None,
    margin: float | None = None,
    baseline: str = "full",
) -> BudgetRanking:
    """Rank methods by the score they reach within a budget.

    Scores, intervals and probabilities come from the posterior that ``compare`` uses, fitted to the methods that fit
    the budget.

    Args:
        group: the runs of one task and model.
        axis: the cost that the budget limits.
        budget: the limit, in the unit of the axis.
        memory: the limit on peak memory in training, in bytes; None for no limit.
        metric: the test metric; None for the metric that selects checkpoints on dev.
        margin: the largest score difference that does not matter; None for 0.01 for metrics that are shares, and 1 %
            of the score for others.
        baseline: the method to compare others with, if it was run.

    Returns:
        The verdict, and the methods that fit the budget.

    Raises:
        InputError: the runs lack the axis or the metric, or were evaluated on different test examples.
    """
    evidence = collect_evidence(group, axis, metric=metric, budget=budget, memory=memory, margin=margin)
    candidates = [_candidate(evidence, label, runs) for label, runs in evidence.run_group.runs.items()]
    candidates.sort(key=lambda each: (each.best is None, -evidence.sign * each.score, evidence.costs[each.method]))
    return BudgetRanking(
        decide(evidence, baseline), tuple(candidates), evidence.left_out, evidence.baselines, group.remarks
    )


def _candidate(evidence: Evidence, label: str, runs: Mapping[int, LoadedRun]) -> RankedMethod:
    estimate = evidence.posterior.estimates[label]
    peaks = [peak_memory(run.summary["cost"]) for run in runs.values()]
    lowest_cost = min(cost(run.evaluations[-1], evidence.axis) for run in runs.values())
    ended_early = evidence.budget is not None and lowest_cost < ENDED_EARLY_SHARE * evidence.budget
    return RankedMethod(
        method=label,
        seeds=estimate.seeds,
        score=estimate.score,
        low=estimate.low,
        high=estimate.high,
        best=estimate.best,
        cost=evidence.costs_to_score[label],
        peak_memory=None if None in peaks else max(peak for peak in peaks if peak is not None),
        ended_at=lowest_cost if ended_early else None,
        notes=method_notes(evidence.run_group, label, evidence.metric, off=label in evidence.from_longer_runs),
    )
