"""The Pareto front of learning and forgetting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from peftkit.compare.evidence import Evidence, collect_evidence
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.retention.forgetting import Forgetting, read_forgetting
from peftkit.compare.statistics import Posterior
from peftkit.compare.statistics.pareto_front import ON_FRONT, on_pareto_front


@dataclass(frozen=True)
class RetentionRow:
    """What one method learns and forgets."""

    method: str
    seeds: int
    score: float
    """The expected score on test."""
    low: float | None
    """Lower end of the score's 95 % interval."""
    high: float | None
    forgotten: float
    """The expected forgetting, a fraction: above zero if the method is worse than the base model."""
    forgotten_low: float | None
    """Lower end of its 95 % interval."""
    forgotten_high: float | None
    observed: float
    """The mean forgetting of its runs."""
    front: float | None
    """The probability that no other method learns more and forgets less; None with one seed."""

    @property
    def on_front(self) -> bool:
        """Whether it is on the front with a probability of at least one half."""
        return self.front is not None and self.front >= ON_FRONT


@dataclass(frozen=True)
class Retention:
    """What the methods of one task and model learn and forget, best learner first."""

    task: str
    model: str
    metric: str
    """The metric of learning, on ``test_split``."""
    test_split: str
    higher_is_better: bool
    forgetting: Forgetting
    rows: tuple[RetentionRow, ...]
    remarks: tuple[str, ...]


def compare_retention(run_group: RunGroup, probe: str, *, by: str = "gmacs", metric: str | None = None) -> Retention:
    """Compare what methods learn on the task with what they forget on a probe.

    Both are of the checkpoints selected on dev.

    Args:
        run_group: The runs.
        probe: The name of the probe.
        by: A cost that all methods have measured.
        metric: The metric on test; None for the one that selects on dev.

    Raises:
        InputError: Runs lack the metric or the probe, or have different examples.
    """
    evidence = collect_evidence(run_group, by, metric=metric)
    forgetting = read_forgetting(evidence.run_group, probe)
    fronts = front_of_two(evidence.posterior, forgetting.posterior)
    rows = sorted(_rows(evidence, forgetting, fronts), key=lambda row: (row.front is None, -evidence.sign * row.score))
    return Retention(
        run_group.task,
        run_group.model,
        evidence.metric,
        run_group.test_split,
        evidence.higher_is_better,
        forgetting,
        tuple(rows),
        run_group.remarks,
    )


def front_of_two(learning: Posterior, forgetting: Posterior) -> dict[str, float]:
    """The probability that each method is on the Pareto front of learning and forgetting.

    The two are drawn independently: a seed that learns more may also forget more, which is not modelled.

    Args:
        learning: The posterior of the scores.
        forgetting: The posterior of what is forgotten, for the same methods.
    """
    names = learning.names
    if not names:
        return {}
    sign = 1.0 if learning.higher_is_better else -1.0
    places = [forgetting.names.index(name) for name in names]
    number = min(len(learning.draws), len(forgetting.draws))
    scores, forgotten = sign * learning.draws[:number], forgetting.draws[:number][:, places]
    probabilities = on_pareto_front(scores, forgotten, np.zeros(len(names))).mean(0)
    return dict(zip(names, probabilities.tolist(), strict=True))


def _rows(evidence: Evidence, forgetting: Forgetting, fronts: dict[str, float]) -> Iterator[RetentionRow]:
    for label, by_seed in forgetting.runs.items():
        learned, forgotten = evidence.posterior.estimates[label], forgetting.posterior.estimates[label]
        yield RetentionRow(
            label,
            learned.seeds,
            learned.score,
            learned.low,
            learned.high,
            forgotten.score,
            forgotten.low,
            forgotten.high,
            float(np.mean([each.forgotten for each in by_seed.values()])),
            fronts.get(label),
        )
