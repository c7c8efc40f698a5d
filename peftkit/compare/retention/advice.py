"""Which method learns most among those that forget at most so much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from peftkit.compare.budget_ranking import BudgetRanking, rank_within_budget
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.learning_curves import selected_row, within_budget
from peftkit.compare.retention.forgetting import Forgetting, read_forgetting
from peftkit.compare.verdict import format_percent
from peftkit.errors import comma_separated

SURE = 0.95
"""The probability of forgetting at most so much from which a method is a candidate."""


@dataclass(frozen=True)
class RetentionAdvice:
    """The methods that forget at most so much on a probe, ranked by what they learn within a budget."""

    forgetting: Forgetting
    """Of all methods, at the checkpoints that dev selects within the budget."""
    limit: float
    within: dict[str, float]
    """The probability of each method with several seeds to forget at most the limit."""
    ranking: BudgetRanking | None
    """The ranking of the candidates; None if there are none."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """The advice, and how certain it is."""
        return (*self._sentences(), *(self.ranking.verdict.sentences if self.ranking else ()))

    def _sentences(self) -> Iterator[str]:
        most = self.forgetting.format(self.limit).lstrip("+")
        candidates = [name for name, probability in self.within.items() if probability >= SURE]
        undecided = {name: p for name, p in self.within.items() if 1 - SURE < p < SURE}
        excluded = [name for name, probability in self.within.items() if probability <= 1 - SURE]
        unit = f"of {self.forgetting.metric} on {self.forgetting.probe}"
        if candidates:
            yield f"Forget at most {most} {unit}, with a probability of at least 95 %: {comma_separated(candidates)}."
        else:
            yield f"No method forgets at most {most} {unit} with a probability of at least 95 %."
        if undecided:
            named = comma_separated([f"{name} ({format_percent(p)})" for name, p in undecided.items()])
            yield f"Undecided, and not ranked: {named}; more seeds or more examples of the probe may decide it."
        if excluded:
            yield f"Forget more, with a probability of at least 95 %: {comma_separated(excluded)}."
        if single := [name for name in self.forgetting.runs if name not in self.within]:
            yield f"With one seed, and not ranked: {comma_separated(single)}."


def rank_within_forgetting(
    group: RunGroup, axis: str, budget: float, probe: str, limit: float, **options: Any
) -> RetentionAdvice:
    """Rank the methods that forget at most so much by the score that they reach within a budget.

    Args:
        group: The runs of one task and model.
        axis: The cost that the budget limits.
        budget: The limit, in the unit of the axis.
        probe: The name of the probe.
        limit: The most that may be forgotten, as a fraction: of the base model's value, or of a proportion.
        options: Further arguments of ``rank_within_budget``.

    Raises:
        InputError: Runs lack the axis, the metric or the probe, or were measured on different examples.
    """

    def step(run: LoadedRun) -> int | None:
        row = selected_row(run, axis, budget)
        return None if row is None or row["step"] == run.summary["selected"]["step"] else int(row["step"])

    measured = {
        label: runs for label, runs in group.runs.items() if all(within_budget(r, axis, budget) for r in runs.values())
    }
    forgetting = read_forgetting(replace(group, runs=measured or group.runs), probe, step)
    within = forgetting.probability_within(limit)
    candidates = {label: runs for label, runs in group.runs.items() if within.get(label, 0.0) >= SURE}
    ranking = None
    if candidates:
        ranking = rank_within_budget(replace(group, runs=candidates), axis, budget, **options)
        reasons = [(label, _why_left_out(label, within)) for label in group.runs if label not in candidates]
        ranking = replace(ranking, left_out=(*ranking.left_out, *reasons))
    return RetentionAdvice(forgetting, limit, within, ranking)


def _why_left_out(label: str, within: dict[str, float]) -> str:
    if label not in within:
        return "it has one seed, or no evaluation within the budget, so that its forgetting is not known"
    return f"it forgets at most so much with a probability of {format_percent(within[label])} only"
