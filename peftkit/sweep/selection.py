"""Which of several settings is the best on dev: by its score, and by its loss where the score cannot tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from peftkit.components import Example, Metric
from peftkit.errors import InputError
from peftkit.runs import RunDirectory

Stage = Literal["design", "model", "extension", "bisection", "repeat", "transfer"]
Row = Mapping[str, Any]
"""A line of predictions."""
TEXTS = {"accuracy": "prediction", "accuracy_norm": "prediction_norm"}
"""Metrics that are the share of examples of which a text is right, and the text."""
NORM = "_norm"
GROUPS = 20
"""Groups of the jackknife."""


@dataclass(frozen=True)
class Measured:
    """What a finished trial has scored on dev, and what it took."""

    score: float | None
    """None where it is no number."""
    loss: float | None
    gmacs: float
    run: str
    """The name of its run directory."""
    predictions: Sequence[Row] = ()
    """On dev, of the selected checkpoint."""


@dataclass(frozen=True)
class Trial:
    """One setting with one seed."""

    settings: Mapping[str, Any]
    seed: int
    stage: Stage
    measured: Measured | None
    """None where the run failed."""

    @property
    def score(self) -> float | None:
        """On dev; None where the run failed or its score is no number."""
        return self.measured.score if self.measured else None

    def record(self) -> dict[str, Any]:
        """The trial as ``tuning.json`` has it."""
        own = self.measured
        return {
            "settings": dict(self.settings),
            "seed": self.seed,
            "stage": self.stage,
            "score": own and own.score,
            "loss": own and own.loss,
            "gmacs": own and own.gmacs,
            "run": own and own.run,
        }


def measured(run: RunDirectory) -> Measured:
    """What a trial's run directory says of dev; nothing of test is read.

    Raises:
        InputError: the directory is damaged.
    """
    summary = run.summary()
    if run.diverged:
        return Measured(None, None, float(summary["cost"]["gmacs"]), run.path.name)
    dev = summary["selected"]["dev"]
    predictions: Sequence[Row] = ()
    with suppress(InputError):  # without them the scores alone decide
        predictions = run.predictions("dev")
    return Measured(
        score=_number(dev.get(summary["selects"])),
        loss=_number(dev.get("loss")),
        gmacs=float(summary["cost"]["gmacs"]),
        run=run.path.name,
        predictions=predictions,
    )


@dataclass(frozen=True)
class Selector:
    """The rule by which settings are chosen.

    The leader is the setting with the best score, a mean over the seeds that it was run with. Another setting cannot be
    told apart from it where the leader is ahead by no more than one standard error of their paired difference over the
    examples of dev (the one-standard-error rule, Breiman et al., 1984). Among all that cannot, the lowest loss on dev
    wins. A setting of which a run failed, or has a score that is no number, comes after those that have none.
    """

    selects: str
    higher: bool
    metrics: Sequence[Metric] = ()
    """The recipe's, for scores that are not means over examples."""

    def ranked(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        """The trials by setting, best first, of those settings that have a score at all."""
        groups: list[list[Trial]] = []
        for trial in trials:
            same = next((group for group in groups if group[0].settings == trial.settings), None)
            if same is None:
                groups.append([trial])
            else:
                same.append(trial)
        left = [group for group in groups if any(trial.score is not None for trial in group)]
        found = []
        while left:
            found.append(self._best(left))
            left = [group for group in left if group is not found[-1]]
        return found

    def _best(self, groups: Sequence[list[Trial]]) -> list[Trial]:
        whole = [group for group in groups if all(trial.score is not None for trial in group)]
        groups = whole or groups
        sign = 1.0 if self.higher else -1.0
        leader = max(groups, key=lambda group: (sign * _mean([t.score for t in group]), -_loss(group)))
        near = [group for group in groups if group is leader or not self._apart(leader, group)]
        return min(near, key=_loss) if self.selects != "loss" else leader

    def _apart(self, leader: Sequence[Trial], other: Sequence[Trial]) -> bool:
        """Whether the leader is ahead by more than one standard error."""
        ahead = abs(_mean([t.score for t in leader]) - _mean([t.score for t in other]))
        error = self._standard_error(leader, other)
        return ahead > error + 1e-12

    def _standard_error(self, one: Sequence[Trial], other: Sequence[Trial]) -> float:
        """Of the difference of two scores on the same examples; 0 where nothing is known of single examples."""
        rows = [[_by_index(t.measured) for t in group if t.measured] for group in (one, other)]
        common = sorted(set.intersection(*(set(each) for group in rows for each in group)))
        if len(common) < 2:
            return 0.0
        values = [[_values([each[i] for i in common], self.selects) for each in group] for group in rows]
        if all(each is not None for group in values for each in group):
            difference = np.mean(values[0], axis=0) - np.mean(values[1], axis=0)  # type: ignore[arg-type]
            return float(difference.std(ddof=1)) / math.sqrt(len(common))
        return self._jackknife([[[each[i] for i in common] for each in group] for group in rows])

    def _jackknife(self, rows: Sequence[Sequence[Sequence[Row]]]) -> float:
        """By leaving out one group of examples after the other (Shao and Wu, 1989): for scores that are no means."""
        metric = next((m for m in self.metrics if self.selects.removesuffix(NORM) in m.value_names), None)
        text = f"prediction{NORM}" if self.selects.endswith(NORM) else "prediction"
        if metric is None or not all(text in row for group in rows for each in group for row in each):
            return 0.0
        number = min(GROUPS, len(rows[0][0]))

        def score(of: Sequence[Row], left_out: int) -> float:
            kept = [row for place, row in enumerate(of) if place % number != left_out]
            examples = [Example(str(r.get("source", "")), r["target"], tuple(r.get("candidates", ()))) for r in kept]
            values = metric.compute([r[text] for r in kept], [[r["target"]] for r in kept], examples)
            return float(values[self.selects.removesuffix(NORM)])

        left = np.array(
            [
                np.mean([score(each, g) for each in rows[0]]) - np.mean([score(each, g) for each in rows[1]])
                for g in range(number)
            ]
        )
        return math.sqrt((number - 1) / number * float(((left - left.mean()) ** 2).sum()))


def _by_index(of: Measured) -> dict[Any, Row]:
    return {row["index"]: row for row in of.predictions}


def _values(rows: Sequence[Row], selects: str) -> list[float] | None:
    """What each example scores, where the score is the mean of that."""
    if all(selects in row.get("scores", ()) for row in rows):
        return [float(row["scores"][selects]) for row in rows]
    text = TEXTS.get(selects)
    if text and all(text in row for row in rows):
        return [float(row[text] == row["target"]) for row in rows]
    return None


def _loss(group: Sequence[Trial]) -> float:
    losses = [trial.measured.loss if trial.measured else None for trial in group]
    return math.inf if None in losses else _mean(losses)


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
