"""Plans the further runs that would settle an open comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from peftkit.compare.evidence import Evidence
from peftkit.compare.learning_curves import cost
from peftkit.compare.statistics.seed_variance import POWER, moderated_variances
from peftkit.compare.statistics.significance_tests import standard_error
from peftkit.errors import InputError

SETTLED_PROBABILITY = 0.95
"""The probability from which a statement counts as settled."""
MAX_RUNS = 1_000_000
"""The most seeds or test examples that a plan may need."""


@dataclass(frozen=True)
class Plan:
    """Runs of two methods that would settle a question with a power of 80 %, if the estimated difference is true."""

    first: str
    second: str
    shows: str
    """The statement that they would support."""
    seeds: int
    """Seeds of each method, existing ones included."""
    more_runs: int
    """Further runs of both methods together."""
    examples: int | None
    """Test examples; None if the existing ones suffice."""
    gmacs: float | None
    """GMACs of the further runs; None if not measured."""
    minutes: float | None
    """Training time of the further runs; None if not measured."""


def plan_runs(evidence: Evidence, first: str, second: str, gap: float, shows: str) -> Plan | None:
    """Plan the runs that would show a gap between two methods with 95 % confidence and a power of 80 %.

    The variance of a difference has three parts. That of seeds falls with more seeds, that of examples with more test
    examples, and that of tuning remains.

    Args:
        evidence: The existing runs.
        first: A method.
        second: Another method.
        gap: The distance, in score, between the expected difference and the one to show.
        shows: The statement to support.

    Returns:
        The plan; None if there is no gap, tuning alone varies too much, or more than ``MAX_RUNS`` runs would be needed.
    """
    if gap <= 0:
        return None
    allowed = (gap / (stats.norm.ppf(SETTLED_PROBABILITY) + stats.norm.ppf(POWER))) ** 2
    tuning = sum(evidence.posterior.choice_effects.get(name, (0.0, 0.0))[1] for name in (first, second))
    if allowed <= tuning:
        return None
    by_seeds, by_examples = _seed_variance(evidence, first, second), _example_variance(evidence, first, second)
    left, examples = allowed - tuning, None
    existing = {name: len(evidence.scores[name]) for name in (first, second)}
    fewest = min(existing.values()) + 1
    if by_examples >= left / 2:
        if not evidence.num_examples:
            return None
        examples = math.ceil(evidence.num_examples * by_examples / (left / 2))
        by_examples, fewest = left / 2, fewest - 1  # with more examples, the existing seeds may suffice
    seeds = max(fewest, math.ceil(by_seeds / (left - by_examples)))
    if max(seeds, examples or 0) > MAX_RUNS:
        return None
    more_runs = {name: max(0, seeds - number) for name, number in existing.items()}
    seconds = _total_cost(evidence, more_runs, "seconds")
    return Plan(
        first=first,
        second=second,
        shows=shows,
        seeds=seeds,
        more_runs=sum(more_runs.values()),
        examples=examples,
        gmacs=_total_cost(evidence, more_runs, "gmacs"),
        minutes=None if seconds is None else seconds / 60,
    )


def _seed_variance(evidence: Evidence, first: str, second: str) -> float:
    """The variance between seeds of the difference of two single runs (see ``moderated_variances``)."""
    names = [*evidence.posterior.names]
    values = [np.array([*evidence.scores[name].values()]) for name in names]
    variances = dict(zip(names, moderated_variances(values, len(names)), strict=True))
    return sum(variances[name].variance * len(evidence.scores[name]) for name in (first, second))


def _example_variance(evidence: Evidence, first: str, second: str) -> float:
    """The variance over test examples of the difference of two methods' means."""
    runs = evidence.example_scores.runs
    if evidence.example_scores.num_examples:
        means = [np.mean([*runs[name].values()], axis=0) for name in (first, second)]
        return standard_error(means[0] - means[1], evidence.example_scores.groups) ** 2
    if not evidence.num_examples:
        return 0.0
    scores = [float(np.mean([*evidence.scores[name].values()])) for name in (first, second)]
    return sum((score * (1 - score) + 0.25 / evidence.num_examples) / evidence.num_examples for score in scores)


def _total_cost(evidence: Evidence, more_runs: Mapping[str, int], axis: str) -> float | None:
    """The cost of further runs, at the mean cost of each method's runs; None if not measured."""
    total = 0.0
    for name, number in more_runs.items():
        try:
            costs = [cost(run.summary, axis) for run in evidence.run_group.runs[name].values()]
        except InputError:
            return None
        total += number * float(np.mean(costs))
    return total
