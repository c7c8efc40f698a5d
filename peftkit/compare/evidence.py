"""What the methods of a section reached, in whole runs or within a budget, with the posterior of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from peftkit.compare.baselines import mean_scores
from peftkit.compare.curves import cost, lower_is_better, measured, peak_memory, read_off, score_within, step_cost
from peftkit.compare.examples import Scored, scores_of
from peftkit.compare.gather import Run, Section
from peftkit.compare.posterior import (
    Scores,
    default_margin,
    is_share,
    posterior_of,
    recorded_examples,
    scores_by_seed,
    tunings_of,
)
from peftkit.compare.statistics import Posterior, Tuning


@dataclass(frozen=True)
class Evidence:
    """The scores and costs from which a verdict is made."""

    section: Section
    """The methods that take part."""
    metric: str
    higher_is_better: bool
    axis: str
    budget: float | None
    """None for whole runs."""
    margin: float
    """The difference in score that is small enough not to matter."""
    scored: Scored
    tunings: Mapping[str, Tuning]
    """What tuning tried, by method."""
    examples: int
    """Test examples; 0 where that is not known."""
    reached: Scores
    """The score of each run, by method and seed."""
    posterior: Posterior
    spent: Mapping[str, float]
    """By method what its runs took of the axis, up to the budget: the mean over seeds."""
    reached_at: Mapping[str, float]
    """By method the cost at which its score was reached: the mean over seeds."""
    read_off: frozenset[str]
    """Methods whose score is read off runs that went on beyond the budget (see ``read_off``)."""
    baselines: Mapping[str, float]
    """The test scores of models that read nothing (``constant``, ``majority``, ``random``), as far as recorded."""
    left_out: tuple[tuple[str, str], ...] = field(default=())
    """Methods that do not take part, each with the reason."""

    @property
    def sign(self) -> float:
        """1 where more of the metric is better, else -1."""
        return 1.0 if self.higher_is_better else -1.0

    def step_cost(self, method: str) -> float:
        """What one step of a method takes of the axis, mean over seeds; 0 where the axis does not grow with steps."""
        return _mean([step_cost(run, self.axis) for run in self.section.runs[method].values()])


def evidence_of(
    section: Section,
    axis: str,
    *,
    metric: str | None = None,
    budget: float | None = None,
    memory: float | None = None,
    margin: float | None = None,
    scored: Scored | None = None,
    tunings: Mapping[str, Tuning] | None = None,
) -> Evidence:
    """Reads what the methods of a section reached.

    Of a budget that ends before a run's selected checkpoint, how examples vary is taken from that checkpoint.

    Args:
        section: the runs.
        axis: the axis of costs.
        metric: the metric on test; None for the one that selects on dev.
        budget: how much may be spent of the axis; None for whole runs.
        memory: the most bytes that training may have taken at its peak; None for any.
        margin: the difference in score that does not matter; None for a point of a share, 1 % of other scores.
        scored: the scores of single examples; None to read them.
        tunings: what tuning tried; None to read it.

    Raises:
        InputError: the runs have not measured the axis or the metric, or are of different test examples.
    """
    section, unmeasured = measured(section, axis)
    first = next(run for of in section.runs.values() for run in of.values())
    metric = metric or str(first.summary["selects"])
    scored = scored or scores_of(section, metric)
    tunings = tunings_of(section, metric) if tunings is None else tunings
    left_out = [(label, f"not all its runs have measured {axis}") for label in unmeasured]
    reached: dict[str, Mapping[int, float]] = {}
    spent: dict[str, float] = {}
    reached_at: dict[str, float] = {}
    whole = scores_by_seed(section, metric)
    for label, of in section.runs.items():
        reason = _too_large(of, memory)
        if budget is None:
            found: dict[int, tuple[float, float] | None] = {
                seed: (_cost_to_selected(run, axis), whole[label][seed]) for seed, run in of.items()
            }
        else:
            found = {seed: score_within(run, axis, metric, budget) for seed, run in of.items()}
        inside = {seed: each for seed, each in found.items() if each is not None}
        if not reason and len(inside) < len(of):
            reason = "nothing of it was evaluated within the budget"
        if reason:
            left_out.append((label, reason))
            continue
        reached[label] = {seed: score for seed, (_, score) in inside.items()}
        reached_at[label] = _mean([at for at, _ in inside.values()])
        total = _mean([cost(run.summary, axis) for run in of.values()])
        spent[label] = total if budget is None else min(total, budget)
    taking_part = replace(section, runs={label: section.runs[label] for label in reached})
    # Without its own runs, a method that does not fit has no say in how much methods vary.
    scored = replace(scored, runs={label: scored.runs[label] for label in reached})
    share = is_share(first, metric, reached)
    scores = [value for of in reached.values() for value in of.values()]
    return Evidence(
        section=taking_part,
        metric=metric,
        higher_is_better=not lower_is_better(first, metric),
        axis=axis,
        budget=budget,
        margin=default_margin(share, scores or [0.0]) if margin is None else margin,
        scored=scored,
        tunings=tunings,
        examples=scored.examples or recorded_examples(first, metric),
        reached=reached,
        posterior=posterior_of(taking_part, metric, scored, reached, tunings)
        if reached
        else Posterior({}, (), np.zeros((0, 0)), {}),
        spent=spent,
        reached_at=reached_at,
        read_off=frozenset(
            label
            for label in reached
            if budget is not None and any(read_off(run, axis, budget) for run in section.runs[label].values())
        ),
        baselines=mean_scores((run.summary for of in section.runs.values() for run in of.values()), metric, "test"),
        left_out=tuple(left_out),
    )


def _too_large(of: Mapping[int, Run], memory: float | None) -> str:
    """Why a method does not fit the memory; empty if it does."""
    if memory is None:
        return ""
    known = [peak_memory(run.summary["cost"]) for run in of.values()]
    if None in known:
        return "not all its runs have measured their memory"
    peak = max(each for each in known if each is not None)
    return f"its training took {peak / 2**30:.2f} GiB" if peak > memory else ""


def _cost_to_selected(run: Run, axis: str) -> float:
    step = run.summary["selected"]["step"]
    row = next((row for row in run.rows if row["step"] == step), run.rows[-1])
    return cost(row, axis)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean([*values]))
