"""Select the best of several settings on dev, by score and, among near-ties, by loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from peftkit.components import Example, Metric
from peftkit.errors import InputError
from peftkit.example_tables import NORM_SUFFIX, PREDICTION_KEYS
from peftkit.run_directory import RunDirectory

Stage = Literal["design", "model", "extension", "bisection", "repeat", "transfer"]
Row = Mapping[str, Any]
"""One line of a predictions file."""
JACKKNIFE_GROUPS = 20
"""The number of groups of examples in the jackknife."""


@dataclass(frozen=True)
class TrialResult:
    """The score and cost of a finished trial."""

    score: float | None
    """On dev; None if it is not a number."""
    loss: float | None
    """On dev; None if it is not a number."""
    gmacs: float
    run: str
    """The name of the run directory."""
    predictions: Sequence[Row] = ()
    """Of the selected checkpoint on dev."""


@dataclass(frozen=True)
class Trial:
    """One setting with one seed."""

    settings: Mapping[str, Any]
    seed: int
    stage: Stage
    result: TrialResult | None
    """None if the run failed."""

    @property
    def score(self) -> float | None:
        """The score on dev; None if the run failed or the score is not a number."""
        return self.result.score if self.result else None

    def to_json(self) -> dict[str, Any]:
        """The trial as an entry of ``tuning.json``."""
        result = self.result
        return {
            "settings": dict(self.settings),
            "seed": self.seed,
            "stage": self.stage,
            "score": result and result.score,
            "loss": result and result.loss,
            "gmacs": result and result.gmacs,
            "run": result and result.run,
        }


def read_trial_result(run: RunDirectory) -> TrialResult:
    """Read the result of a trial on dev from its run directory; nothing of test is read.

    Args:
        run: The run directory.

    Returns:
        The result.

    Raises:
        InputError: The directory is damaged.
    """
    summary = run.summary()
    if run.diverged:
        return TrialResult(None, None, float(summary["cost"]["gmacs"]), run.path.name)
    dev = summary["selected"]["dev"]
    predictions: Sequence[Row] = ()
    with suppress(InputError):  # without predictions, only the mean scores are compared
        predictions = run.predictions("dev")
    return TrialResult(
        score=_as_finite(dev.get(summary["selection_metric"])),
        loss=_as_finite(dev.get("loss")),
        gmacs=float(summary["cost"]["gmacs"]),
        run=run.path.name,
        predictions=predictions,
    )


@dataclass(frozen=True)
class Selector:
    """Rank settings by the one-standard-error rule (Breiman et al., 1984).

    The leader is the setting with the best mean score over its seeds. Another setting ties with it if the leader is
    ahead by at most one standard error of their paired difference over the examples of dev. The tied setting with the
    lowest loss on dev wins. Settings with a failed run or an undefined score rank after all others.
    """

    metric: str
    """The metric to select by."""
    higher_is_better: bool
    """Whether a higher score is better."""
    metrics: Sequence[Metric] = ()
    """The recipe's metrics, for scores that are not means over examples."""

    def rank(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        """Group the trials by setting, best setting first; settings without any score are left out."""
        groups: list[list[Trial]] = []
        for trial in trials:
            same_settings = next((group for group in groups if group[0].settings == trial.settings), None)
            if same_settings is None:
                groups.append([trial])
            else:
                same_settings.append(trial)
        unranked = [group for group in groups if any(trial.score is not None for trial in group)]
        ranking = []
        while unranked:
            ranking.append(self._best(unranked))
            unranked = [group for group in unranked if group is not ranking[-1]]
        return ranking

    def _best(self, groups: Sequence[list[Trial]]) -> list[Trial]:
        complete = [group for group in groups if all(trial.score is not None for trial in group)]
        groups = complete or groups
        sign = 1.0 if self.higher_is_better else -1.0
        leader = max(groups, key=lambda group: (sign * _mean([t.score for t in group]), -_mean_loss(group)))
        tied = [group for group in groups if group is leader or not self._is_significant(leader, group)]
        return min(tied, key=_mean_loss) if self.metric != "loss" else leader

    def _is_significant(self, leader: Sequence[Trial], other: Sequence[Trial]) -> bool:
        """Whether the leader is ahead by more than one standard error."""
        ahead = abs(_mean([t.score for t in leader]) - _mean([t.score for t in other]))
        error = self._standard_error(leader, other)
        return ahead > error + 1e-12

    def _standard_error(self, one: Sequence[Trial], other: Sequence[Trial]) -> float:
        """Standard error of the difference of two scores on the same examples; 0 without per-example results."""
        rows = [[_by_index(t.result) for t in group if t.result] for group in (one, other)]
        common = sorted(set.intersection(*(set(each) for group in rows for each in group)))
        if len(common) < 2:
            return 0.0
        values = [[_per_example_scores([each[i] for i in common], self.metric) for each in group] for group in rows]
        if all(each is not None for group in values for each in group):
            difference = np.mean(values[0], axis=0) - np.mean(values[1], axis=0)  # type: ignore[arg-type]
            return float(difference.std(ddof=1)) / math.sqrt(len(common))
        return self._jackknife([[[each[i] for i in common] for each in group] for group in rows])

    def _jackknife(self, rows: Sequence[Sequence[Sequence[Row]]]) -> float:
        """Grouped jackknife (Shao and Wu, 1989), for scores that are not means over examples."""
        scorer = next((m for m in self.metrics if self.metric.removesuffix(NORM_SUFFIX) in m.value_names), None)
        prediction_key = f"prediction{NORM_SUFFIX}" if self.metric.endswith(NORM_SUFFIX) else "prediction"
        if scorer is None or not all(prediction_key in row for group in rows for each in group for row in each):
            return 0.0
        num_groups = min(JACKKNIFE_GROUPS, len(rows[0][0]))

        def score(rows: Sequence[Row], excluded_group: int) -> float:
            kept = [row for i, row in enumerate(rows) if i % num_groups != excluded_group]
            examples = [Example(str(r.get("source", "")), r["target"], tuple(r.get("candidates", ()))) for r in kept]
            values = scorer.compute([r[prediction_key] for r in kept], [[r["target"]] for r in kept], examples)
            return float(values[self.metric.removesuffix(NORM_SUFFIX)])

        differences = np.array(
            [
                np.mean([score(each, g) for each in rows[0]]) - np.mean([score(each, g) for each in rows[1]])
                for g in range(num_groups)
            ]
        )
        return math.sqrt((num_groups - 1) / num_groups * float(((differences - differences.mean()) ** 2).sum()))


def _by_index(result: TrialResult) -> dict[Any, Row]:
    return {row["index"]: row for row in result.predictions}


def _per_example_scores(rows: Sequence[Row], metric: str) -> list[float] | None:
    """Per-example scores, if the score is their mean."""
    if all(metric in row.get("scores", ()) for row in rows):
        return [float(row["scores"][metric]) for row in rows]
    prediction_key = PREDICTION_KEYS.get(metric)
    if prediction_key and all(prediction_key in row for row in rows):
        return [float(row[prediction_key] == row["target"]) for row in rows]
    return None


def _mean_loss(group: Sequence[Trial]) -> float:
    losses = [trial.result.loss if trial.result else None for trial in group]
    return math.inf if None in losses else _mean(losses)


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def _as_finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
