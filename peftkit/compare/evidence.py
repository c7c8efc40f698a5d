"""Collects scores, costs and the posterior of methods, for whole runs or within a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.learning_curves import (
    cost,
    keep_measured,
    lower_is_better,
    peak_memory,
    score_within_budget,
    step_cost,
    uses_longer_run,
)
from peftkit.compare.per_example_scores import ScoredExamples, read_group_scores
from peftkit.compare.posterior_inputs import (
    Scores,
    default_margin,
    fit_posterior,
    is_proportion,
    read_tunings,
    recorded_num_examples,
    scores_by_seed,
)
from peftkit.compare.recorded_baselines import mean_baseline_scores
from peftkit.compare.statistics import Posterior, Tuning


@dataclass(frozen=True)
class Evidence:
    """The scores and costs that a verdict is based on."""

    run_group: RunGroup
    """The methods that take part."""
    metric: str
    higher_is_better: bool
    axis: str
    """The cost axis."""
    budget: float | None
    """None for whole runs."""
    margin: float
    """The largest difference in score that does not matter."""
    example_scores: ScoredExamples
    tunings: Mapping[str, Tuning]
    """The tuning trials, by method."""
    num_examples: int
    """The number of test examples; 0 if unknown."""
    scores: Scores
    """The score of each run, by method and seed."""
    posterior: Posterior
    costs: Mapping[str, float]
    """The cost of each method's runs, up to the budget, averaged over seeds."""
    costs_to_score: Mapping[str, float]
    """The cost at which each method reached its score, averaged over seeds."""
    from_longer_runs: frozenset[str]
    """Methods whose score is taken from runs that continue beyond the budget (``learning_curves.uses_longer_run``)."""
    baselines: Mapping[str, float]
    """Test scores of the input-blind baselines (``constant``, ``majority``, ``random``) that runs record."""
    left_out: tuple[tuple[str, str], ...] = field(default=())
    """Methods that do not take part, each with the reason."""

    @property
    def sign(self) -> float:
        """1 if higher values of the metric are better, else -1."""
        return 1.0 if self.higher_is_better else -1.0

    def step_cost(self, method: str) -> float:
        """The cost of one training step of a method, averaged over seeds; 0 if the cost does not grow with steps."""
        return _mean([step_cost(run, self.axis) for run in self.run_group.runs[method].values()])


def collect_evidence(
    run_group: RunGroup,
    axis: str,
    *,
    metric: str | None = None,
    budget: float | None = None,
    memory: float | None = None,
    margin: float | None = None,
    scored: ScoredExamples | None = None,
    tunings: Mapping[str, Tuning] | None = None,
) -> Evidence:
    """Collect the scores and costs of a group's methods and fit the posterior.

    If the budget ends before a run's selected checkpoint, the variation over examples is that of this checkpoint.

    Args:
        run_group: The runs.
        axis: The cost axis.
        metric: The metric on test; None for the one that selects on dev.
        budget: The most that may be spent on the axis; None for whole runs.
        memory: The most peak memory in bytes; None for no limit.
        margin: The largest difference in score that does not matter; None for 0.01 if scores are proportions, else 1 %.
        scored: Scores per example; None to read them.
        tunings: Tuning trials by method; None to read them.

    Raises:
        InputError: Runs have not measured the axis or the metric, or have different test examples.
    """
    run_group, unmeasured = keep_measured(run_group, axis)
    first = next(run for runs in run_group.runs.values() for run in runs.values())
    metric = metric or first.default_metric
    scored = scored or read_group_scores(run_group, metric)
    tunings = read_tunings(run_group, metric) if tunings is None else tunings
    left_out = [(label, f"not all its runs have measured {axis}") for label in unmeasured]
    reached: dict[str, Mapping[int, float]] = {}
    spent: dict[str, float] = {}
    reached_at: dict[str, float] = {}
    final_scores = scores_by_seed(run_group, metric)
    for label, runs in run_group.runs.items():
        reason = _exceeds_memory(runs, memory)
        if budget is None:
            points: dict[int, tuple[float, float] | None] = {
                seed: (_cost_to_selected(run, axis), final_scores[label][seed]) for seed, run in runs.items()
            }
        else:
            points = {seed: score_within_budget(run, axis, metric, budget) for seed, run in runs.items()}
        within = {seed: point for seed, point in points.items() if point is not None}
        if not reason and len(within) < len(runs):
            reason = "it has no evaluation within the budget"
        if reason:
            left_out.append((label, reason))
            continue
        reached[label] = {seed: score for seed, (_, score) in within.items()}
        reached_at[label] = _mean([point_cost for point_cost, _ in within.values()])
        total = _mean([cost(run.summary, axis) for run in runs.values()])
        spent[label] = total if budget is None else min(total, budget)
    taking_part = replace(run_group, runs={label: run_group.runs[label] for label in reached})
    # A method that is left out must not affect the estimated variation between methods.
    scored = replace(scored, runs={label: scored.runs[label] for label in reached})
    share = is_proportion(first, metric, reached)
    scores = [value for by_seed in reached.values() for value in by_seed.values()]
    return Evidence(
        run_group=taking_part,
        metric=metric,
        higher_is_better=not lower_is_better(first, metric),
        axis=axis,
        budget=budget,
        margin=default_margin(share, scores or [0.0]) if margin is None else margin,
        example_scores=scored,
        tunings=tunings,
        num_examples=scored.num_examples or recorded_num_examples(first, metric),
        scores=reached,
        posterior=fit_posterior(taking_part, metric, scored, reached, tunings)
        if reached
        else Posterior({}, (), np.zeros((0, 0)), {}),
        costs=spent,
        costs_to_score=reached_at,
        from_longer_runs=frozenset(
            label
            for label in reached
            if budget is not None and any(uses_longer_run(run, axis, budget) for run in run_group.runs[label].values())
        ),
        baselines=mean_baseline_scores(
            (run.summary for runs in run_group.runs.values() for run in runs.values()), metric, "test"
        ),
        left_out=tuple(left_out),
    )


def _exceeds_memory(runs: Mapping[int, LoadedRun], memory: float | None) -> str:
    """Why a method does not fit into memory; empty if it does."""
    if memory is None:
        return ""
    peaks = [peak_memory(run.summary["cost"]) for run in runs.values()]
    if None in peaks:
        return "not all its runs have measured their memory"
    peak = max(each for each in peaks if each is not None)
    return f"its training took {peak / 2**30:.2f} GiB" if peak > memory else ""


def _cost_to_selected(run: LoadedRun, axis: str) -> float:
    step = run.summary["selected"]["step"]
    row = next((row for row in run.evaluations if row["step"] == step), run.evaluations[-1])
    return cost(row, axis)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean([*values]))
