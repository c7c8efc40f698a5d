"""Regret curves: the dev scores of tuning trials, and how far each is from the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.tuning_records import TRANSFER_STAGE, describe_transfer, tuning_record
from peftkit.compare.method_notes import tuning_notes
from peftkit.compare.recorded_baselines import mean_baseline_scores
from peftkit.run_directory import tuning_edges

LEARNING_RATE = "train.learning_rate"


@dataclass(frozen=True)
class TuningTrial:
    """One trial of a method's tuning."""

    method: str
    learning_rate: float | None
    """None if the learning rate was not tuned."""
    settings: str
    """The other tuned settings, as ``key=value`` pairs."""
    stage: str
    seed: int | None
    score: float | None
    """The dev score; None if the run failed, diverged, or has no finite score."""
    loss: float | None
    """The dev loss."""
    regret: float | None
    """How much worse the score is than that of the method's best trial; None for trials at another budget."""
    chosen: bool
    """Whether the method's final runs use these settings."""
    gmacs: float | None
    at_edge: str
    """The keys whose best value is at the edge of the tuned range; empty if there are none."""
    transfer: str
    """How results of trials at another budget carry over to the final one; empty if there are none."""


@dataclass(frozen=True)
class RegretCurves:
    """The trials of all tuned methods of a run group, by method and learning rate."""

    task: str
    model: str
    metric: str
    tried: tuple[TuningTrial, ...]
    notes: tuple[str, ...]
    baselines: Mapping[str, float] = field(default_factory=dict)
    """Dev scores of the input-blind baselines, where recorded."""

    @property
    def methods(self) -> list[str]:
        """The tuned methods."""
        return [*dict.fromkeys(trial.method for trial in self.tried)]


def regret_curves(group: RunGroup) -> RegretCurves | None:
    """Compute the regret curves of a run group; None if no method was tuned."""
    tunings = {label: tuning_record(runs) for label, runs in group.runs.items()}
    first = next(run for runs in group.runs.values() for run in runs.values())
    sign = 1.0 if first.summary["higher_is_better"] else -1.0
    trials = [trial for label, tuning in tunings.items() if tuning for trial in _trials_of_method(label, tuning, sign)]
    if not trials:
        return None
    notes = tuning_notes(
        {label: tuning_edges(tuning) for label, tuning in tunings.items()},
        {label: describe_transfer(tuning) for label, tuning in tunings.items()},
    )
    untuned = [label for label, tuning in tunings.items() if not tuning]
    if untuned:
        notes.append(f"left out, not tuned: {', '.join(untuned)}")
    metric = str(first.summary["selection_metric"])
    summaries = (run.summary for runs in group.runs.values() for run in runs.values())
    return RegretCurves(
        group.task, group.model, metric, tuple(trials), tuple(notes), mean_baseline_scores(summaries, metric, "dev")
    )


def _trials_of_method(label: str, tuning: Mapping[str, Any], sign: float) -> list[TuningTrial]:
    """Read the trials of one method from its tuning record.

    Args:
        label: the method.
        tuning: the content of ``tuning.json``.
        sign: 1 if higher scores are better, otherwise -1.

    Returns:
        The trials by learning rate.
    """
    records = tuning.get("tried", ())
    best = max(
        (sign * record["score"] for record in records if record["score"] is not None and _has_regret(record)),
        default=None,
    )
    trials = []
    for record in records:
        settings = dict(record["settings"])
        rate, score = settings.pop(LEARNING_RATE, None), record["score"]
        comparable = score is not None and best is not None and _has_regret(record)
        trials.append(
            TuningTrial(
                method=label,
                learning_rate=rate,
                settings=", ".join(f"{key}={value}" for key, value in settings.items()),
                stage=record.get("stage", ""),
                seed=record.get("seed"),
                score=score,
                loss=record.get("loss"),
                regret=best - sign * score if comparable else None,
                chosen=record["settings"] == tuning.get("settings"),
                gmacs=record.get("gmacs"),
                at_edge="; ".join(tuning_edges(tuning)),
                transfer=describe_transfer(tuning) or "",
            )
        )
    return sorted(trials, key=lambda trial: (trial.learning_rate or 0.0, trial.settings, trial.seed or 0))


def _has_regret(record: Mapping[str, Any]) -> bool:
    """Whether a trial has the budget of the method's other trials; its regret is undefined if not."""
    return record.get("stage") != TRANSFER_STAGE
