"""How long the runs of a sweep take, from one short run of each study, and from the runs so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from peftkit.recipe import Recipe
from peftkit.recipe.tables.intervals import parse_interval
from peftkit.recipe.tables.train_config import BudgetConfig
from peftkit.run_directory import RunDirectory
from peftkit.sweep.within.expected_time import RunTime, StudyTime

PROBE_STEPS = 16
"""Steps of the short run."""
MIN_STEPS = 20
"""The fewest steps that are worth a run of a sweep."""
RunKind = Literal["trial", "final"]


@dataclass(frozen=True)
class Probe:
    """What a short run has shown."""

    seconds: float
    """What was waited for, without what runs share."""
    loading_seconds: float
    """What was waited for until the inputs were there that runs share."""
    training_seconds: float
    evaluation_seconds: float
    """Of one evaluation during training."""
    evaluations: int
    progress: Mapping[str, float]
    """What it used of each kind of budget."""
    test_examples: int

    @classmethod
    def read(cls, run: RunDirectory, seconds: float, *, shares_inputs: bool) -> Probe:
        """Read a finished short run.

        Args:
            run: The run directory.
            seconds: How long the run took, seen from the sweep.
            shares_inputs: Whether further runs find its inputs loaded.
        """
        summary, rows = run.summary(), run.evaluations()
        cost, steps = summary["cost"], summary["steps"]
        loading = float(summary["wall_seconds_before_run"]) if shares_inputs else 0.0
        progress = {
            "steps": steps,
            "samples": summary["samples"],
            "tokens": sum(summary["tokens"].values()),
            "epochs": summary["epoch"],
            "seconds": cost["train_seconds"],
            "gmacs": cost["gmacs"],
            "joules": cost.get("joules", 0.0),
        }
        return cls(
            seconds=max(0.0, seconds - loading),
            loading_seconds=loading,
            training_seconds=cost["train_seconds"] + cost.get("data_wait_seconds", 0.0),
            evaluation_seconds=sum(row["evaluation_seconds"] for row in rows) / max(1, len(rows)),
            evaluations=len(rows),
            progress=progress,
            test_examples=summary["rows_evaluated"]["selected"]["test"],
        )

    def used(self, budget: BudgetConfig) -> float:
        """Return the share of a budget that it used.

        Args:
            budget: The budget, without its limit of ``wall_seconds``.
        """
        return max((self.progress[key] / limit for key, limit in budget if limit and key in self.progress), default=0.0)

    def run_time(self, recipe: Recipe) -> RunTime:
        """Return how long a run of the same model and method takes.

        Args:
            recipe: The recipe of the run, with its whole budget.
        """
        limit, used = recipe.train.budget.wall_seconds, self.used(recipe.train.budget)
        fixed, per_step = self._fixed_and_per_step(recipe)
        full = per_step * self.progress["steps"] / used if used else math.inf
        return RunTime(fixed, full) if limit is None or fixed + full < limit else RunTime(0.0, limit)

    def _fixed_and_per_step(self, recipe: Recipe) -> tuple[float, float]:
        """The seconds of a run without its steps, and those of a step, each with its evaluations."""
        once, often = _evaluations(recipe, self.progress)
        other = self.seconds - self.training_seconds - self.evaluations * self.evaluation_seconds
        fixed = max(0.0, other) + once * self.evaluation_seconds
        return fixed, self.training_seconds / self.progress["steps"] + often * self.evaluation_seconds

    def least_share(self, recipe: Recipe) -> float:
        """Return the share of a recipe's budget that is worth a run.

        Args:
            recipe: The recipe, with its whole budget.
        """
        limit, share = recipe.train.budget.wall_seconds, MIN_STEPS / self.progress["steps"]
        fixed, per_step = self._fixed_and_per_step(recipe)
        waits = 0.0 if limit is None else (fixed + MIN_STEPS * per_step) / limit
        return max(waits, share * self.used(recipe.train.budget))


def _evaluations(recipe: Recipe, progress: Mapping[str, float]) -> tuple[float, float]:
    """The number of evaluations of a run, and of further ones per step."""
    number, unit = parse_interval(recipe.evaluate.every)
    at_start = int(recipe.evaluate.at_start)
    if unit == "%":
        return at_start + -(-100 // number), 0.0
    if unit == "log":
        return at_start + number, 0.0
    interval = number if unit == "steps" else number * progress["steps"] / max(progress["epochs"], 1e-9)
    return at_start + 1, 1 / interval


@dataclass
class RunTimes:
    """How long the runs of each study take: as the short runs say, corrected by the runs so far."""

    predicted: Mapping[str, Mapping[RunKind, float]]
    """Seconds by label and kind."""
    measured: dict[str, dict[RunKind, list[float]]] = field(default_factory=dict)

    def add(self, label: str, kind: RunKind, seconds: float) -> None:
        """Add a run.

        Args:
            label: The label of its study.
            kind: Whether it is a trial or a final run.
            seconds: How long it took.
        """
        self.measured.setdefault(label, {}).setdefault(kind, []).append(seconds)

    def expected(self, label: str, kind: RunKind) -> float:
        """Return how long another run takes: the mean of those so far and of the prediction, corrected by all runs.

        Args:
            label: The label of its study.
            kind: Whether it is a trial or a final run.
        """
        pairs = [
            (sum(values), len(values) * self.predicted[name][each])
            for name, kinds in self.measured.items()
            if name in self.predicted
            for each, values in kinds.items()
        ]
        seconds, predictions = (sum(values) for values in zip(*pairs, strict=True)) if pairs else (1.0, 1.0)
        ratio = seconds / predictions if predictions else 1.0
        values = self.measured.get(label, {}).get(kind, [])
        return (ratio * self.predicted[label][kind] + sum(values)) / (1 + len(values))

    def study_times(self, searches: Mapping[str, bool]) -> dict[str, StudyTime]:
        """Return how long the runs of each study take, with the budget that they have.

        Args:
            searches: Whether each study has trials.
        """
        return {
            label: StudyTime(
                RunTime(self.expected(label, "trial")), RunTime(self.expected(label, "final")), searches=searches[label]
            )
            for label in self.predicted
        }
