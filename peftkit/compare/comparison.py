"""What runs of one task and model say of their methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from peftkit.compare.curves import (
    AXES,
    FIXED,
    area,
    common_span,
    cost,
    curve,
    peak_memory,
    reached_at,
    score,
    step_cost,
)
from peftkit.compare.evidence import Evidence, evidence_of
from peftkit.compare.gather import Run, Section, imported_notes
from peftkit.compare.notes import notes_of
from peftkit.compare.posterior import posterior_of
from peftkit.compare.statistics import PairDifference, Posterior
from peftkit.compare.statistics.observations import Array
from peftkit.compare.statistics.pairwise import PairwiseTests, judge
from peftkit.compare.tuned import tuning_of
from peftkit.compare.uncertainty import cost_interval, front, front_probabilities, reach_probability
from peftkit.compare.verdict import Verdict, decide
from peftkit.errors import InputError
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
    """To reach so much of what dev selects of the baseline; None if any seed never did."""
    never: Mapping[float, int]
    """Seeds that never did."""
    area: float | None
    """The mean score along the logarithm of the cost, over the span that all runs have; None where there is none.
    Expected, as ``score`` is; of one seed, the run's."""
    trainable_parameters: float | None
    checkpoint_bytes: float | None
    peak_memory: float | None
    pareto: bool
    """Whether no other method scores as much for as little, with a probability of a half or more. Of one seed, no,
    unless all methods have one: then by the scores of their runs."""
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
    pareto_probability: float | None = None
    """That no other method with several seeds scores as much for as little; None of one seed."""
    area_low: float | None = None
    """Of the 95 % interval of the area; None of one seed."""
    area_high: float | None = None
    cost_to_share_interval: Mapping[float, tuple[float, float] | None] = field(default_factory=dict)
    """The 95 % interval of each ``cost_to_share``; None of one seed, and if any seed never reached it."""
    reach_probability: Mapping[float, float | None] = field(default_factory=dict)
    """The probability that a run with another seed reaches the share; None of one seed."""


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
    fronts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The methods on the Pareto front, by each cost that all runs have measured."""

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
        shares: how much of what dev selects of the baseline is asked for.
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
    judged = {label: {seed: sign * each for seed, each in scored.runs[label].items()} for label in posterior.names}
    pairwise = judge(judged, groups=scored.groups, choices=posterior.choices)
    base = _baseline(section, baseline)
    # The level is what dev selects, as the curves are: their highest test score may be high by chance.
    final = float(np.mean([c[1][-1] for c in curves[base].values()])) if base else None
    low, high = common_span([c for of in curves.values() for c in of.values()])
    moves = by not in FIXED
    totals = evidence.spent
    fronts = _fronts(section, posterior, scores)
    on_front = front_probabilities(posterior, totals, _steps(section, by))
    ranked = moves and bool(posterior.names) and (high > low or bool(budgets))
    asked = budgets if budgets is not None else np.geomspace(low, high, BUDGETS).tolist() if ranked else ()
    winners = tuple(_winners(evidence, asked, baseline)) if ranked else ()
    areas: dict[str, dict[int, float]] = {}
    if moves and high > low:
        areas = {label: {seed: sign * area(*c, low, high) for seed, c in of.items()} for label, of in curves.items()}
    expected_areas = posterior_of(section, metric, scored, areas, evidence.tunings).estimates if areas else {}
    levels = {share: final * share if final > 0 else final / share for share in shares} if final is not None else {}
    lines = []
    for label, of in section.runs.items():
        reached = {share: [reached_at(*c, level) for c in curves[label].values()] for share, level in levels.items()}
        start = min(_first_step(run, by) for run in of.values())
        own_area = expected_areas.get(label)
        several = len(of) > 1
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
                cost_to_share={share: _known(c and c[1] for c in costs) for share, costs in reached.items()},
                never={share: costs.count(None) for share, costs in reached.items()},
                area=own_area.score if own_area else None,
                trainable_parameters=_known(c.get("trainable_parameters") for c in last),
                checkpoint_bytes=_known(_checkpoint_bytes(run) for run in of.values()),
                peak_memory=_known(peak_memory(c) for c in last),
                pareto=label in fronts.get(by, ()),
                trials=None if tuning is None else int(tuning["trials"]),
                tuning_gmacs=None if tuning is None else float(tuning["gmacs"]),
                notes=notes_of(section, label, metric, off=any(w.method == label and w.read_off for w in winners)),
                at_edge=tuning_edges(tuning),
                wins_within=tuple(winner.budget for winner in winners if winner.method == label),
                pareto_probability=on_front.get(label),
                area_low=own_area.low if own_area and several else None,
                area_high=own_area.high if own_area and several else None,
                cost_to_share_interval={
                    share: cost_interval(costs, start) if moves else None for share, costs in reached.items()
                },
                reach_probability={share: reach_probability(costs) for share, costs in reached.items()},
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
        fronts=fronts,
    )


def _totals(section: Section, by: str) -> dict[str, float]:
    """The mean cost of each method's runs."""
    return {label: _mean(cost(run.summary, by) for run in of.values()) for label, of in section.runs.items()}


def _steps(section: Section, by: str) -> dict[str, float]:
    """What one training step of each method costs."""
    return {label: _mean(step_cost(run, by) for run in of.values()) for label, of in section.runs.items()}


def _first_step(run: Run, by: str) -> float:
    """The cost after the first training step, with what was spent before it."""
    return cost(run.rows[-1], by) - step_cost(run, by) * max(0.0, float(run.rows[-1]["step"]) - 1)


def _fronts(section: Section, posterior: Posterior, scores: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """The methods on the Pareto front by every cost that all runs have measured, and by what a step takes."""
    found = {}
    for axis in AXES:
        try:
            totals, steps = _totals(section, axis), _steps(section, axis)
        except (InputError, KeyError, TypeError):
            continue
        found[axis] = front(posterior, scores, totals, steps)
        if axis in ("gmacs", "seconds"):
            found[f"{axis}_per_step"] = front(posterior, scores, steps, dict.fromkeys(steps, 0.0))
    sizes = {label: _known(_checkpoint_bytes(run) for run in of.values()) for label, of in section.runs.items()}
    known = {label: size for label, size in sizes.items() if size is not None}
    if len(known) == len(sizes):
        found["checkpoint_bytes"] = front(posterior, scores, known, dict.fromkeys(known, 0.0))
    return found


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
            tunings=evidence.tunings,
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
