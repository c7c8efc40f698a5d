"""Which method to use within a budget, how sure that is, and what would make it surer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from peftkit.compare.curves import cost, lower_is_better, measured, peak_memory, read_off, score_within
from peftkit.compare.examples import scores_of
from peftkit.compare.gather import Section
from peftkit.compare.posterior import posterior_of, recorded_examples
from peftkit.compare.statistics.observations import Array
from peftkit.compare.statistics.pairwise import standard_error
from peftkit.compare.statistics.seeds import POWER
from peftkit.compare.tuned import transfer, tuning_of
from peftkit.errors import listed
from peftkit.runs import tuning_edges

FEWEST_SEEDS, FEWEST_EXAMPLES = 2, 30
"""Less than so much is no evidence."""
SHORT = 0.9
"""The share of a budget that a method's runs must have been trained for."""
LEVEL = 0.95
MOST, MOST_EXAMPLES = 1000, 100_000
"""Seeds and test examples beyond which it is said that they will not do."""


@dataclass(frozen=True)
class Candidate:
    """A method that fits the budget."""

    method: str
    seeds: int
    score: float
    low: float | None
    high: float | None
    best: float | None
    """The probability that it is the best of those that fit."""
    cost: float
    """At which it had reached the score, mean over seeds."""
    peak_memory: float | None
    """Bytes, the most of its seeds; None where that was not measured."""
    read_off: bool = False
    """Whether its score is read off longer runs, whose learning rate had not decayed yet at the budget."""
    at_edge: tuple[str, ...] = ()
    """Where its tuning stopped at the edge of its range."""
    transfer: str = ""
    """How trials at another budget have carried over to that of the runs; empty where it is the same."""


@dataclass(frozen=True)
class Advice:
    """What to use for one task and model."""

    task: str
    model: str
    metric: str
    axis: str
    budget: float
    candidates: tuple[Candidate, ...]
    """Best first; nothing where the evidence is too thin."""
    too_thin: tuple[str, ...]
    """Why there is no recommendation."""
    left_out: tuple[tuple[str, str], ...]
    """Methods that were not considered, with the reasons."""
    difference: float | None = None
    """Between the first and the second."""
    low: float | None = None
    high: float | None = None
    settled: bool = False
    """Whether the difference is beyond chance."""
    more_seeds: int | None = None
    """Seeds of each of the two that would show it four times in five; None if no number would, or it is settled."""
    more_examples: int | None = None
    """Test examples that it would take besides, where those there are do not suffice for any number of seeds."""
    remarks: tuple[str, ...] = ()
    """What every conclusion has to say (see ``Section``)."""


def advise(
    section: Section, axis: str, budget: float, *, memory: float | None = None, metric: str | None = None
) -> Advice:
    """Ranks the methods of a section by what they had reached within a budget.

    Scores, intervals and probabilities are those of ``compare``, from the same posterior, of the methods that fit. Of a
    budget that ends before a run's selected checkpoint, how examples vary is taken from that checkpoint.

    Args:
        section: the runs.
        axis: what the budget is of.
        budget: how much.
        memory: the most bytes that training may have taken at its peak.
        metric: what counts on test; None for what selects on dev.

    Raises:
        InputError: the runs have not measured the axis or the metric, or are of different test examples.
    """
    section, unmeasured = measured(section, axis)
    runs = [run for of in section.runs.values() for run in of.values()]
    metric = metric or str(runs[0].summary["selects"])
    sign = -1.0 if lower_is_better(runs[0], metric) else 1.0
    scored = scores_of(section, metric)
    examples = scored.examples or recorded_examples(runs[0], metric)
    left_out = [(label, f"not all its runs have measured {axis}") for label in unmeasured]
    reached: dict[str, dict[int, float]] = {}
    costs: dict[str, float] = {}
    peaks: dict[str, float | None] = {}
    for label, of in section.runs.items():
        known = [peak_memory(run.summary["cost"]) for run in of.values()]
        peak = None if None in known else max(each for each in known if each is not None)
        found = [score_within(run, axis, metric, budget) for run in of.values()]
        inside = [each for each in found if each is not None]
        trained = min(cost(run.rows[-1], axis) for run in of.values())
        if memory is not None and peak is None:
            left_out.append((label, "not all its runs have measured their memory"))
        elif memory is not None and peak is not None and peak > memory:
            left_out.append((label, f"its training took {peak / 2**30:.2f} GiB"))
        elif len(inside) < len(of):
            left_out.append((label, "nothing of it was evaluated within the budget"))
        elif trained < SHORT * budget:
            left_out.append((label, f"it was trained for {trained:,.4g} {axis} only"))
        else:
            costs[label] = float(np.mean([spent for spent, _ in inside]))
            reached[label] = {seed: value for seed, (_, value) in zip(of, inside, strict=True)}
            peaks[label] = peak
    few = [label for label, values in reached.items() if len(values) < FEWEST_SEEDS]
    if len(reached) - len(few) >= 2:  # the others can be told about
        for label in few:
            del reached[label]
            left_out.append((label, "one seed tells nothing of how much seeds vary: run others"))
    thin = _too_thin(section, reached, examples)
    common = {"task": section.task, "model": section.model, "metric": metric, "axis": axis, "budget": budget}
    common |= {"remarks": section.remarks}
    if thin:
        return Advice(**common, candidates=(), too_thin=tuple(thin), left_out=tuple(left_out))  # type: ignore[arg-type]
    fitting = replace(section, runs={label: section.runs[label] for label in reached})
    scored = replace(scored, runs={label: scored.runs[label] for label in reached})
    posterior = posterior_of(fitting, metric, scored, reached)
    candidates = [
        Candidate(
            method=label,
            seeds=estimate.seeds,
            score=estimate.score,
            low=estimate.low,
            high=estimate.high,
            best=estimate.best,
            cost=costs[label],
            peak_memory=peaks[label],
            read_off=any(read_off(run, axis, budget) for run in section.runs[label].values()),
            at_edge=tuning_edges(tuning_of(section.runs[label])),
            transfer=transfer(tuning_of(section.runs[label])),
        )
        for label, estimate in posterior.estimates.items()
    ]
    candidates.sort(key=lambda each: (-sign * each.score, each.cost))
    first, second = candidates[0].method, candidates[1].method
    gap = posterior.difference(first, second)
    settled = gap.low > 0
    seeds, more = None, None
    if not settled:
        values = [np.array([*reached[method].values()]) for method in (first, second)]
        rows = [np.mean([*scored.runs[method].values()], axis=0) for method in (first, second)]
        if scored.examples:
            error = standard_error(rows[0] - rows[1], scored.groups)
        else:
            error = math.sqrt(sum(_share_variance(each.mean(), examples) for each in values))
        seeds, more = _settling(values[0], values[1], sign * (values[0].mean() - values[1].mean()), error, examples)
    return Advice(
        **common,  # type: ignore[arg-type]
        candidates=tuple(candidates),
        too_thin=(),
        left_out=tuple(left_out),
        difference=gap.mean,
        low=gap.low,
        high=gap.high,
        settled=settled,
        more_seeds=seeds,
        more_examples=more,
    )


def _too_thin(section: Section, reached: Mapping[str, Mapping[int, float]], examples: int) -> list[str]:
    told = []
    if len(section.runs) < 2:
        told.append(f"there is one method only, {listed([*section.runs])}: run others on the same task and model")
    elif len(reached) < 2:
        told.append("fewer than two methods were run within the budget: raise it, or run more of them for it")
    few = [label for label, values in reached.items() if len(values) < FEWEST_SEEDS]
    if few:
        told.append(f"one seed tells nothing of how much seeds vary: run others of {listed(few[:5])}")
    if 0 < examples < FEWEST_EXAMPLES:
        told.append(
            f"{examples} test examples are too few to tell methods apart: evaluate on {FEWEST_EXAMPLES} or more"
        )
    return told


def _settling(
    first: Array, second: Array, difference: float, error: float, examples: int
) -> tuple[int | None, int | None]:
    """The seeds of each that would show the difference, and the test examples if those there are do not suffice."""
    if difference <= 0:
        return None, None
    wanted = (difference / (stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER))) ** 2
    fixed, more = error**2, None
    there = min(len(first), len(second))
    if fixed >= wanted / 2:
        more = math.ceil(examples * fixed / (wanted / 2))
        if more > MOST_EXAMPLES:
            return None, None
        fixed, there = wanted / 2, there - 1  # the seeds there are may do, on more examples
    seeds = math.ceil((np.var(first, ddof=1) + np.var(second, ddof=1)) / (wanted - fixed))
    return min(MOST, max(there + 1, seeds)), more


def _share_variance(share: float, examples: int) -> float:
    """The variance of a share of so many examples; 0 where that is not known."""
    return (share * (1 - share) + 0.25 / examples) / examples if examples else 0.0
