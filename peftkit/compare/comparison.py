"""What runs of one task and model say of their methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from peftkit.compare.curves import (
    area,
    common_span,
    curve,
    pareto,
    peak_memory,
    reached_at,
    score,
)
from peftkit.compare.evidence import Evidence, evidence_of
from peftkit.compare.gather import Run, Section, imported_notes
from peftkit.compare.notes import notes_of
from peftkit.compare.statistics import PairDifference
from peftkit.compare.statistics.observations import Array
from peftkit.compare.statistics.pairwise import PairwiseTests, judge
from peftkit.compare.tuned import tuning_of
from peftkit.compare.verdict import Verdict, decide
from peftkit.runs import tuning_edges

BUDGETS = 5


@dataclass(frozen=True)
class Line:
    """One method. Costs are of the chosen axis, and means over its seeds."""

    method: str
    seeds: tuple[int, ...]
    score: float
    """The expected score (see ``fit``); of one seed, the run's."""
    observed: float
    """The mean score of its runs."""
    low: float | None
    """None where nothing is known of how it varies: one seed, and no single examples."""
    high: float | None
    letter: str
    """Methods that pairwise tests do not separate share a letter (see ``PairwiseTests``); empty of one seed."""
    best: float | None
    """The probability that it is the best; None of one seed."""
    near_best: float | None
    """The probability that it is no more than ``Comparison.margin`` worse than the best; None of one seed."""
    cost: float
    """Of the whole run."""
    relative_cost: float | None
    """To the baseline's; None without one."""
    cost_to_best: float
    """To the checkpoint that dev selects."""
    cost_to_share: Mapping[float, float | None]
    """To reach so much of the baseline's best score; None if any seed never did."""
    never: Mapping[float, int]
    """Seeds that never did."""
    area: float | None
    """The mean score along the logarithm of the cost, over the span that all runs have; None where there is none."""
    trainable_parameters: float | None
    checkpoint_bytes: float | None
    peak_memory: float | None
    pareto: bool
    """Whether no other method scores as much for as little."""
    trials: int | None
    """Settings that a sweep has tried for it; None if nothing was."""
    tuning_gmacs: float | None
    """What these took, those of a new head not among them."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What has to be said of it, each by one word (see ``notes_of``)."""
    at_edge: tuple[str, ...] = ()
    """Where tuning stopped at the edge of its range; empty where the best settings lie between others."""
    wins_within: tuple[float, ...] = ()
    """Budgets of which it is the winner."""


@dataclass(frozen=True)
class Winner:
    """The method with the highest expected score within a budget, by the verdict that ``advise`` makes of it."""

    budget: float
    method: str
    score: float
    low: float
    high: float
    """The 95 % interval of the score."""
    best: float
    """The probability that it has the highest expected score of all within the budget."""
    read_off: bool
    """Whether scores of this ranking are read off longer runs, whose learning rate had not decayed yet."""


@dataclass(frozen=True)
class Comparison:
    """The methods of one task and model, best first."""

    task: str
    model: str
    metric: str
    higher_is_better: bool
    by: str
    baseline: str | None
    shares: tuple[float, ...]
    lines: tuple[Line, ...]
    differences: tuple[PairDifference, ...]
    """Of all pairs of methods with two seeds or more, from the same posterior as the lines."""
    margin: float
    """The difference in score within which a method is near the best."""
    verdict: Verdict
    """What to use, and how sure that is."""
    pairwise: PairwiseTests
    """Tests with Holm's correction, which can differ from the probabilities."""
    baselines: Mapping[str, float]
    """What models score that read nothing (``constant``, ``majority``, ``random``), as far as runs record it."""
    examples: int
    """Test examples that were drawn anew; 0 where only seeds vary."""
    seeds_alone: str
    """Why only these do; empty where examples do too."""
    winners: tuple[Winner, ...]
    """For each budget of a grid."""
    pooled: Mapping[str, Sequence[str]]
    noise: float | None = None
    """The standard deviation of the score of runs of the very same recipe; None where none was run twice."""
    repeated: int = 0
    """Recipes that were."""
    imported: tuple[str, ...] = ()
    """What has to be said of results of other systems."""
    unmeasured: tuple[str, ...] = ()
    """Methods that are left out, since not all their runs have measured the cost."""
    remarks: tuple[str, ...] = ()
    """What every conclusion has to say (see ``Section``)."""

    @property
    def sign(self) -> float:
        """1 where more of the metric is better, else -1."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def detectable(self) -> float | None:
        """The difference between two methods that would have been found four times in five: the median of pairs."""
        found = [each.detectable for each in self.pairwise.differences if each.detectable is not None]
        return float(np.median(found)) if found else None


def compare(
    section: Section,
    *,
    by: str = "gmacs",
    metric: str | None = None,
    baseline: str = "full",
    shares: Sequence[float] = (0.95,),
    budgets: Sequence[float] | None = None,
    margin: float | None = None,
) -> Comparison:
    """Compares the methods of a section.

    Args:
        section: the runs.
        by: the axis of costs.
        metric: what counts on test; None for what selects on dev.
        baseline: the method that others are measured by, if it is there.
        shares: how much of the baseline's best score is asked for.
        budgets: those for which a winner is named; None for five that all runs span.
        margin: the difference in score that is small enough to be none; None for a point of a share, 1 % of others.

    Raises:
        InputError: the runs have not the metric or the cost, or are of different test examples.
    """
    evidence = evidence_of(section, by, metric=metric, margin=margin)
    section, metric, scored, posterior = evidence.section, evidence.metric, evidence.scored, evidence.posterior
    sign, margin = evidence.sign, evidence.margin  # below, higher values are better; lines have their own sign again
    observed = {label: _mean(of.values()) for label, of in evidence.reached.items()}
    scores = {label: sign * value for label, value in observed.items()}
    curves = {
        label: {seed: _signed(curve(run, by, metric), sign) for seed, run in of.items()}
        for label, of in section.runs.items()
    }
    near = posterior.within_margin_of_best(margin)
    several = {label: {seed: sign * each for seed, each in scored.runs[label].items()} for label in posterior.names}
    pairwise = judge(several, groups=scored.groups, choices=posterior.choices)
    base = _baseline(section, baseline)
    best = float(np.mean([c[1].max() for c in curves[base].values()])) if base else None
    low, high = common_span([c for of in curves.values() for c in of.values()])
    moves = by not in ("peak_memory", "trainable_parameters")  # these are the same from the first step to the last
    totals = evidence.spent
    front = dict(zip(totals, pareto([(totals[label], scores[label]) for label in totals]), strict=True))
    ranked = moves and bool(posterior.names) and (high > low or bool(budgets))
    asked = budgets if budgets is not None else np.geomspace(low, high, BUDGETS).tolist() if ranked else ()
    winners = tuple(_winners(evidence, asked, baseline)) if ranked else ()
    lines = []
    for label, of in section.runs.items():
        own = [*curves[label].values()]
        levels = {share: best * share if best > 0 else best / share for share in shares} if best is not None else {}
        reached = {share: [reached_at(*c, level) for c in own] for share, level in levels.items()}
        tuning = tuning_of(of)
        last = [run.summary["cost"] for run in of.values()]
        estimate = posterior.estimates[label]
        lines.append(
            Line(
                method=label,
                seeds=tuple(sorted(of)),
                score=estimate.score,
                observed=observed[label],
                low=estimate.low,
                high=estimate.high,
                letter=pairwise.letters.get(label, ""),
                best=estimate.best,
                near_best=near.get(label),
                cost=totals[label],
                relative_cost=totals[label] / totals[base] if base and totals[base] else None,
                cost_to_best=evidence.reached_at[label],
                cost_to_share={share: None if None in costs else _mean(costs) for share, costs in reached.items()},
                never={share: costs.count(None) for share, costs in reached.items()},
                area=sign * _mean(area(*c, low, high) for c in own) if moves and high > low else None,
                trainable_parameters=_known(c.get("trainable_parameters") for c in last),
                checkpoint_bytes=_known(_checkpoint_bytes(run) for run in of.values()),
                peak_memory=_known(peak_memory(c) for c in last),
                pareto=front[label],
                trials=None if tuning is None else int(tuning["trials"]),
                tuning_gmacs=None if tuning is None else float(tuning["gmacs"]),
                notes=notes_of(section, label, metric, off=any(w.method == label and w.read_off for w in winners)),
                at_edge=tuning_edges(tuning),
                wins_within=tuple(winner.budget for winner in winners if winner.method == label),
            )
        )
    return Comparison(
        task=section.task,
        model=section.model,
        metric=metric,
        higher_is_better=evidence.higher_is_better,
        by=by,
        baseline=base,
        shares=tuple(shares) if base else (),
        lines=tuple(sorted(lines, key=lambda line: (line.best is None, -sign * line.score))),
        differences=posterior.differences(),
        margin=margin,
        verdict=decide(evidence, baseline),
        pairwise=pairwise,
        baselines=evidence.baselines,
        examples=scored.examples,
        seeds_alone=scored.why_not,
        winners=winners,
        pooled=section.pooled,
        noise=_noise(section, metric),
        repeated=len(section.repeats),
        imported=imported_notes(section),
        unmeasured=tuple(label for label, _ in evidence.left_out),
        remarks=section.remarks,
    )


def _noise(section: Section, metric: str) -> float | None:
    """The pooled standard deviation within recipes that were run more than once."""
    groups = [[score(run, metric) for run in of] for of in section.repeats]
    if not groups:
        return None
    squares = sum(float(np.var(of)) * len(of) for of in groups)
    return float(np.sqrt(squares / sum(len(of) - 1 for of in groups)))


def _baseline(section: Section, name: str) -> str | None:
    return next((label for label in section.runs if label == name or label.startswith(f"{name} (")), None)


def _winners(evidence: Evidence, budgets: Sequence[float], baseline: str) -> Iterator[Winner]:
    """The verdict of each budget that makes a recommendation."""
    for budget in budgets:
        within = evidence_of(
            evidence.section,
            evidence.axis,
            metric=evidence.metric,
            budget=budget,
            margin=evidence.margin,
            scored=evidence.scored,
        )
        use = decide(within, baseline).use
        if use is not None:
            yield Winner(budget, use.method, use.score, use.low, use.high, use.best, bool(within.read_off))


def _checkpoint_bytes(run: Run) -> float | None:
    """What the checkpoint takes on the disk, or else, of imported results, what its weights take."""
    found = run.summary.get("model_bytes") or run.summary["cost"].get("checkpoint_bytes")
    return None if found is None else float(found)


def _signed(points: tuple[Array, Array], sign: float) -> tuple[Array, Array]:
    return points[0], sign * points[1]


def _known(values: Any) -> float | None:
    """The mean, where all are known: imported results may lack some."""
    found = [*values]
    return None if None in found else _mean(found)


def _mean(values: Any) -> float:
    return float(np.mean([*values]))
