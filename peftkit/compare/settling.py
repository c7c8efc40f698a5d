"""How many more runs would settle what these leave open."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from peftkit.compare.curves import cost
from peftkit.compare.evidence import Evidence
from peftkit.compare.statistics.pairwise import standard_error
from peftkit.compare.statistics.seeds import POWER, spreads
from peftkit.errors import InputError

SURE = 0.95
"""The probability from which on a statement is made."""
MOST = 1_000_000
"""Seeds or test examples beyond which no plan is made."""


@dataclass(frozen=True)
class Plan:
    """Runs of two methods that would settle a question four times in five, if they differ as much as it looks."""

    first: str
    second: str
    shows: str
    """The answer that they would give."""
    seeds: int
    """Of each of the two, those that are there among them."""
    more_runs: int
    """Of both together."""
    examples: int | None
    """Test examples, where those that are there do not suffice for any number of seeds."""
    gmacs: float | None
    """What the further runs take; None where that was not measured."""
    minutes: float | None


def plan(evidence: Evidence, first: str, second: str, gap: float, shows: str) -> Plan | None:
    """The runs that would show a gap between two methods with 95 %, four times in five.

    The variance of their difference has three parts: that of seeds falls with more seeds, that of examples with more
    test examples, and that of tuning stays.

    Args:
        evidence: the runs there are.
        first: a method.
        second: another.
        gap: how far what is to be shown is from what is expected, in score.
        shows: what is to be shown, in words.

    Returns:
        The plan; None where the gap is none, tuning alone varies too much, or it would take more than ``MOST``.
    """
    if gap <= 0:
        return None
    wanted = (gap / (stats.norm.ppf(SURE) + stats.norm.ppf(POWER))) ** 2
    tuning = sum(evidence.posterior.choices.get(name, (0.0, 0.0))[1] for name in (first, second))
    if wanted <= tuning:
        return None
    of_seeds, of_examples = _seed_variance(evidence, first, second), _example_variance(evidence, first, second)
    left, examples = wanted - tuning, None
    there = {name: len(evidence.reached[name]) for name in (first, second)}
    fewest = min(there.values()) + 1
    if of_examples >= left / 2:
        if not evidence.examples:
            return None
        examples = math.ceil(evidence.examples * of_examples / (left / 2))
        of_examples, fewest = left / 2, fewest - 1  # the seeds there are may do, on more examples
    seeds = max(fewest, math.ceil(of_seeds / (left - of_examples)))
    if max(seeds, examples or 0) > MOST:
        return None
    more_runs = {name: max(0, seeds - number) for name, number in there.items()}
    seconds = _total(evidence, more_runs, "seconds")
    return Plan(
        first=first,
        second=second,
        shows=shows,
        seeds=seeds,
        more_runs=sum(more_runs.values()),
        examples=examples,
        gmacs=_total(evidence, more_runs, "gmacs"),
        minutes=None if seconds is None else seconds / 60,
    )


def _seed_variance(evidence: Evidence, first: str, second: str) -> float:
    """Of the difference of one run of each, by seeds: moderated over all methods (see ``spreads``)."""
    names = [*evidence.posterior.names]
    values = [np.array([*evidence.reached[name].values()]) for name in names]
    found = dict(zip(names, spreads(values, len(names)), strict=True))
    return sum(found[name].variance * len(evidence.reached[name]) for name in (first, second))


def _example_variance(evidence: Evidence, first: str, second: str) -> float:
    """Of the difference of the two methods' means, by the test examples."""
    runs = evidence.scored.runs
    if evidence.scored.examples:
        means = [np.mean([*runs[name].values()], axis=0) for name in (first, second)]
        return standard_error(means[0] - means[1], evidence.scored.groups) ** 2
    if not evidence.examples:
        return 0.0
    shares = [float(np.mean([*evidence.reached[name].values()])) for name in (first, second)]
    return sum((share * (1 - share) + 0.25 / evidence.examples) / evidence.examples for share in shares)


def _total(evidence: Evidence, more_runs: Mapping[str, int], axis: str) -> float | None:
    """What further runs take, each as much as the method's runs have taken on average."""
    total = 0.0
    for name, number in more_runs.items():
        try:
            costs = [cost(run.summary, axis) for run in evidence.section.runs[name].values()]
        except InputError:
            return None
        total += number * float(np.mean(costs))
    return total
