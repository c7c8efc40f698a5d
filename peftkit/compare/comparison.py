"""Compares the methods of one task and model by score and cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from peftkit.compare.evidence import Evidence, collect_evidence
from peftkit.compare.input.groups import RunGroup, imported_notes
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.input.tuning_records import tuning_record
from peftkit.compare.learning_curves import (
    AXES,
    FIXED_COSTS,
    area_under_curve,
    checkpoint_bytes,
    common_span,
    cost,
    learning_curve,
    mean_set_scores,
    mean_values_beside,
    peak_memory,
    reached_at,
    selected_score,
    step_cost,
)
from peftkit.compare.method_notes import method_notes
from peftkit.compare.posterior_inputs import fit_posterior
from peftkit.compare.serving import describe_serving, serving_of
from peftkit.compare.statistics import PairDifference, Posterior
from peftkit.compare.statistics.cost_uncertainty import cost_interval, reach_probability
from peftkit.compare.statistics.pareto_front import front_probabilities, pareto_front
from peftkit.compare.statistics.significance_tests import PairwiseTests, compare_scores
from peftkit.compare.verdict import Verdict, decide
from peftkit.errors import InputError
from peftkit.run_directory import tuning_edges

NUM_BUDGETS = 5
"""The number of budgets for which a winner is determined by default."""


@dataclass(frozen=True)
class MethodRow:
    """One method. Costs are on the chosen axis and averaged over seeds."""

    method: str
    seeds: tuple[int, ...]
    score: float
    """The expected score (see ``fit``); with one seed, the run's."""
    observed: float
    """The mean score of its runs."""
    low: float | None
    """Lower end of the score's 95 % interval; None if its variation is unknown: one seed, and no scores per example."""
    high: float | None
    letter: str
    """Methods that pairwise tests do not separate share a letter (see ``PairwiseTests``); empty with one seed."""
    best: float | None
    """P(best): the probability that the method has the highest expected score; None with one seed."""
    near_best: float | None
    """The probability that it is at most ``Comparison.margin`` worse than the best; None with one seed."""
    cost: float
    """The cost of a whole run."""
    relative_cost: float | None
    """The cost divided by the baseline's; None without a baseline."""
    cost_to_best: float
    """The cost up to the checkpoint selected on dev."""
    cost_to_share: Mapping[float, float | None]
    """The cost to reach each share of the baseline's final score (as selected on dev); None if any seed never did."""
    never: Mapping[float, int]
    """The number of seeds that never reached each share."""
    area: float | None
    """The mean score over the logarithm of the cost, over the span that all runs have; None where there is none.
    Expected, like ``score``; with one seed, the run's."""
    trainable_parameters: float | None
    checkpoint_bytes: float | None
    peak_memory: float | None
    """In bytes."""
    pareto: bool
    """Whether the method is on the Pareto front with a probability of at least one half; False with one seed, unless
    all methods have one: then by the scores of their runs."""
    trials: int | None
    """The number of settings that a sweep tried; None if the method was not tuned."""
    tuning_gmacs: float | None
    """GMACs of these trials, without those of a new head."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Caveats, each by a keyword (see ``method_notes``)."""
    at_edge: tuple[str, ...] = ()
    """Where tuning stopped at the edge of its range; empty where the best settings lie inside."""
    wins_within: tuple[float, ...] = ()
    """Budgets within which the method wins."""
    pareto_probability: float | None = None
    """The probability that the method is on the Pareto front of those with several seeds; None with one seed."""
    area_low: float | None = None
    """Lower end of the area's 95 % interval; None with one seed."""
    area_high: float | None = None
    cost_to_share_interval: Mapping[float, tuple[float, float] | None] = field(default_factory=dict)
    """The 95 % interval of each ``cost_to_share``; None with one seed, or if any seed never reached it."""
    reach_probability: Mapping[float, float | None] = field(default_factory=dict)
    """The probability that a run with another seed reaches each share; None with one seed."""
    sets: Mapping[str, float] = field(default_factory=dict)
    """The mean score of its runs on each evaluation set that all of them have."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """What is shown beside the score, such as the share of answers that could not be extracted."""
    serving: Mapping[str, float] = field(default_factory=dict)
    """What serving it takes, by column (``serving``)."""


@dataclass(frozen=True)
class Winner:
    """The method with the highest expected score within a budget, as ``advise`` would recommend it."""

    budget: float
    method: str
    score: float
    low: float
    """Lower end of the score's 95 % interval."""
    high: float
    """Upper end of the score's 95 % interval."""
    best: float
    """P(best): the probability that the method has the highest expected score within the budget."""
    read_off: bool
    """Whether the ranking uses scores of longer runs, whose learning rate had not decayed yet."""


@dataclass(frozen=True)
class Comparison:
    """The methods of one task and model, best first."""

    task: str
    model: str
    metric: str
    higher_is_better: bool
    by: str
    """The cost axis."""
    baseline: str | None
    """The method that others are compared with."""
    shares: tuple[float, ...]
    """Shares of the baseline's final score for which the cost to reach them is computed."""
    lines: tuple[MethodRow, ...]
    differences: tuple[PairDifference, ...]
    """Differences of all pairs of methods with several seeds, from the same posterior as the rows."""
    margin: float
    """The largest difference in score that does not matter."""
    verdict: Verdict
    """The recommendation, and how certain it is."""
    pairwise: PairwiseTests
    """Pairwise tests with Holm's correction, which can differ from the probabilities."""
    baselines: Mapping[str, float]
    """Test scores of the input-blind baselines (``constant``, ``majority``, ``random``) that runs record."""
    examples: int
    """The number of test examples that are resampled; 0 if only seeds vary."""
    seeds_alone: str
    """Why only seeds vary; empty where examples do too."""
    winners: tuple[Winner, ...]
    """The winner within each of several budgets."""
    pooled: Mapping[str, Sequence[str]]
    """Fairness checks that fail and were allowed to, with the differences."""
    noise: float | None = None
    """The standard deviation between scores of runs of the same recipe and seed; None without repeated runs."""
    repeated: int = 0
    """The number of recipes that were run more than once with the same seed."""
    imported: tuple[str, ...] = ()
    """Caveats of imported results."""
    unmeasured: tuple[str, ...] = ()
    """Methods that are left out because not all their runs have measured the cost."""
    remarks: tuple[str, ...] = ()
    """Caveats of every conclusion (see ``RunGroup``)."""
    fronts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The methods on the Pareto front, by each cost that all runs have measured."""
    test_split: str = "test"
    """The split of the scores: test, or an evaluation set."""

    @property
    def sign(self) -> float:
        """1 if higher values of the metric are better, else -1."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def detectable(self) -> float | None:
        """The difference between two methods that would be detected with a power of 80 %: the median over pairs."""
        differences = [each.detectable for each in self.pairwise.differences if each.detectable is not None]
        return float(np.median(differences)) if differences else None


def compare(
    run_group: RunGroup,
    *,
    by: str = "gmacs",
    metric: str | None = None,
    baseline: str = "full",
    shares: Sequence[float] = (0.95,),
    budgets: Sequence[float] | None = None,
    margin: float | None = None,
) -> Comparison:
    """Compare the methods of a group.

    Args:
        run_group: The runs.
        by: The cost axis.
        metric: The metric on test; None for the one that selects on dev.
        baseline: The method that others are compared with, if there are runs of it.
        shares: Shares of the baseline's final score for which to compute the cost to reach them.
        budgets: Budgets for which to determine a winner; None for five in the span that all runs cover.
        margin: The largest difference in score that does not matter; None for 0.01 if scores are proportions, else 1 %.

    Raises:
        InputError: Runs lack the metric or the cost, or have different test examples.
    """
    evidence = collect_evidence(run_group, by, metric=metric, margin=margin)
    run_group, metric = evidence.run_group, evidence.metric
    scored, posterior = evidence.example_scores, evidence.posterior
    sign, margin = evidence.sign, evidence.margin  # higher is better below; rows have the metric's own sign again
    observed = {label: _mean(by_seed.values()) for label, by_seed in evidence.scores.items()}
    signed_scores = {label: sign * value for label, value in observed.items()}
    curves = {
        label: {
            seed: (costs, sign * scores)
            for seed, run in runs.items()
            for costs, scores in [learning_curve(run, by, metric)]
        }
        for label, runs in run_group.runs.items()
    }
    near = posterior.within_margin_of_best(margin)
    signed_examples = {
        label: {seed: sign * values for seed, values in scored.runs[label].items()} for label in posterior.names
    }
    pairwise = compare_scores(signed_examples, groups=scored.groups, choices=posterior.choice_effects)
    base = _find_baseline(run_group, baseline)
    # The curves show what dev selects, so the level does too: their highest test score may be high by chance.
    final = float(np.mean([c[1][-1] for c in curves[base].values()])) if base else None
    low, high = common_span([c for by_seed in curves.values() for c in by_seed.values()])
    grows, totals = by not in FIXED_COSTS, evidence.costs
    fronts = _fronts(run_group, posterior, signed_scores)
    on_front = front_probabilities(posterior, totals, _step_costs(run_group, by))
    has_winners = grows and bool(posterior.names) and (high > low or bool(budgets))
    winner_budgets = (
        budgets if budgets is not None else np.geomspace(low, high, NUM_BUDGETS).tolist() if has_winners else ()
    )
    winners = tuple(_winners(evidence, winner_budgets, baseline)) if has_winners else ()
    areas: dict[str, dict[int, float]] = {}
    if grows and high > low:
        areas = {
            label: {seed: sign * area_under_curve(*c, low, high) for seed, c in by_seed.items()}
            for label, by_seed in curves.items()
        }
    expected_areas = fit_posterior(run_group, metric, scored, areas, evidence.tunings).estimates if areas else {}
    levels = {share: final * share if final > 0 else final / share for share in shares} if final is not None else {}
    rows = []
    for label, runs in run_group.runs.items():
        reached = {share: [reached_at(*c, level) for c in curves[label].values()] for share, level in levels.items()}
        start = min(_first_step_cost(run, by) for run in runs.values())
        area_estimate = expected_areas.get(label)
        area_interval = (area_estimate.low, area_estimate.high) if area_estimate and len(runs) > 1 else (None, None)
        tuning = tuning_record(runs)
        costs = [run.summary["cost"] for run in runs.values()]
        estimate = posterior.estimates[label]
        rows.append(
            MethodRow(
                method=label,
                seeds=tuple(sorted(runs)),
                score=estimate.score,
                observed=observed[label],
                low=estimate.low,
                high=estimate.high,
                letter=pairwise.letters.get(label, ""),
                best=estimate.best,
                near_best=near.get(label),
                cost=totals[label],
                relative_cost=totals[label] / totals[base] if base and totals[base] else None,
                cost_to_best=evidence.costs_to_score[label],
                cost_to_share={share: _mean_if_known(c and c[1] for c in points) for share, points in reached.items()},
                never={share: points.count(None) for share, points in reached.items()},
                area=area_estimate.score if area_estimate else None,
                trainable_parameters=_mean_if_known(c.get("trainable_parameters") for c in costs),
                checkpoint_bytes=_mean_if_known(checkpoint_bytes(run) for run in runs.values()),
                peak_memory=_mean_if_known(peak_memory(c) for c in costs),
                pareto=label in fronts.get(by, ()),
                trials=None if tuning is None else int(tuning["trials"]),
                tuning_gmacs=None if tuning is None else float(tuning["gmacs"]),
                notes=method_notes(
                    run_group, label, metric, off=any(w.method == label and w.read_off for w in winners)
                ),
                at_edge=tuning_edges(tuning),
                wins_within=tuple(winner.budget for winner in winners if winner.method == label),
                pareto_probability=on_front.get(label),
                area_low=area_interval[0],
                area_high=area_interval[1],
                cost_to_share_interval={
                    share: cost_interval(points, start) if grows else None for share, points in reached.items()
                },
                reach_probability={share: reach_probability(points) for share, points in reached.items()},
                sets=mean_set_scores(runs.values(), metric),
                beside=mean_values_beside(runs.values(), metric),
                serving=serving_of(runs.values()),
            )
        )
    return Comparison(
        task=run_group.task,
        model=run_group.model,
        metric=metric,
        higher_is_better=evidence.higher_is_better,
        by=by,
        baseline=base,
        shares=tuple(shares) if base else (),
        lines=tuple(sorted(rows, key=lambda row: (row.best is None, -sign * row.score))),
        differences=posterior.differences(),
        margin=margin,
        verdict=decide(evidence, baseline),
        pairwise=pairwise,
        baselines=evidence.baselines,
        examples=scored.num_examples,
        seeds_alone=scored.why_unavailable,
        winners=winners,
        pooled=run_group.pooled,
        noise=_repeat_deviation(run_group, metric),
        repeated=len(run_group.repeats),
        imported=imported_notes(run_group),
        unmeasured=tuple(label for label, _ in evidence.left_out),
        remarks=(*run_group.remarks, *describe_serving(r for by in run_group.runs.values() for r in by.values())),
        fronts=fronts,
        test_split=run_group.test_split,
    )


def _mean_costs(run_group: RunGroup, axis: str) -> dict[str, float]:
    """The mean cost of each method's runs."""
    return {label: _mean(cost(run.summary, axis) for run in runs.values()) for label, runs in run_group.runs.items()}


def _step_costs(run_group: RunGroup, axis: str) -> dict[str, float]:
    """The mean cost of one training step of each method."""
    return {label: _mean(step_cost(run, axis) for run in runs.values()) for label, runs in run_group.runs.items()}


def _first_step_cost(run: LoadedRun, axis: str) -> float:
    """The cost after the first training step, including what was spent before it."""
    return cost(run.evaluations[-1], axis) - step_cost(run, axis) * max(0.0, float(run.evaluations[-1]["step"]) - 1)


def _fronts(run_group: RunGroup, posterior: Posterior, scores: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """The methods on the Pareto front, by each cost that all runs have measured and by the cost of a step."""
    fronts = {}
    for axis in AXES:
        try:
            totals, steps = _mean_costs(run_group, axis), _step_costs(run_group, axis)
        except (InputError, KeyError, TypeError):
            continue
        fronts[axis] = pareto_front(posterior, scores, totals, steps)
        if axis in ("gmacs", "seconds"):
            fronts[f"{axis}_per_step"] = pareto_front(posterior, scores, steps, dict.fromkeys(steps, 0.0))
    sizes = {label: _mean_if_known(map(checkpoint_bytes, runs.values())) for label, runs in run_group.runs.items()}
    known = {label: size for label, size in sizes.items() if size is not None}
    if len(known) == len(sizes):
        fronts["checkpoint_bytes"] = pareto_front(posterior, scores, known, dict.fromkeys(known, 0.0))
    return fronts


def _repeat_deviation(run_group: RunGroup, metric: str) -> float | None:
    """The pooled standard deviation within recipes that were run more than once."""
    groups = [[selected_score(run, metric) for run in repeats] for repeats in run_group.repeats]
    if not groups:
        return None
    squares = sum(float(np.var(scores)) * len(scores) for scores in groups)
    return float(np.sqrt(squares / sum(len(scores) - 1 for scores in groups)))


def _find_baseline(run_group: RunGroup, name: str) -> str | None:
    """The label of the baseline, with or without options."""
    return next((label for label in run_group.runs if label == name or label.startswith(f"{name} (")), None)


def _winners(evidence: Evidence, budgets: Sequence[float], baseline: str) -> Iterator[Winner]:
    """The recommended method within each budget, where there is one."""
    for budget in budgets:
        within = collect_evidence(
            evidence.run_group,
            evidence.axis,
            metric=evidence.metric,
            budget=budget,
            margin=evidence.margin,
            scored=evidence.example_scores,
            tunings=evidence.tunings,
        )
        use = decide(within, baseline).use
        if use is not None:
            yield Winner(budget, use.method, use.score, use.low, use.high, use.best, bool(within.from_longer_runs))


def _mean_if_known(values: Iterable[float | None]) -> float | None:
    """The mean; None if a value is unknown, which imported results may lack."""
    known = [*values]
    return None if None in known else _mean(known)


def _mean(values: Iterable[Any]) -> float:
    return float(np.mean([*values]))
