"""Joint draws of several tasks and models: normalised scores, ranks and performance profiles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from scipy import stats

from peftkit.compare.statistics.engine import LEVEL, TAILS
from peftkit.compare.statistics.observations import Array
from peftkit.compare.verdict import percent, write_probability

FEWEST = 2
"""Tasks with their models, and methods, that it takes at least."""
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(23))
"""Normalised scores at which the performance profile is read."""
POCKET = "Pocket models are too small to generalise: this says nothing about larger models"
SCORE, RANK = "normalised score", "rank"
"""What decides which method is the best."""


def title_of(task: str, model: str) -> str:
    """What a task with a model is called."""
    return f"{task} with {model}"


@dataclass(frozen=True, eq=False)
class Part:
    """What is known of the methods of one task and model."""

    task: str
    model: str
    metric: str
    names: tuple[str, ...]
    draws: Array
    """Of their expected scores, draws × methods; higher is better."""
    constant: float | None
    """The score of the best constant answer, with the sign of the draws; None where it is not known."""
    unscaled: str = ""
    """Why it is not known."""
    sign: float = 1.0
    """That of the draws: -1 where less of the metric is better."""
    seeds_alone: str = ""
    """Why seeds alone vary; empty where test examples do too."""

    @property
    def title(self) -> str:
        """The task and the model."""
        return title_of(self.task, self.model)


@dataclass(frozen=True)
class Estimate:
    """A posterior mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One method over all tasks and models."""

    method: str
    score: Estimate | None
    """The mean normalised score; None where no scale is known."""
    iqm: Estimate | None
    """The interquartile mean of the normalised scores."""
    rank: Estimate
    """The mean rank; 1 is best."""
    best: float
    """The probability of the highest mean normalised score, or without a scale of the lowest mean rank."""
    improvement: Estimate | None
    """The probability that the leading method scores higher, mean over tasks and models; None of that method itself."""
    profile: tuple[Estimate, ...]
    """For each threshold the share of tasks and models in which the normalised score reaches it; empty without one."""
    cost: float | None = None
    """The mean over tasks and models: relative to the baseline's where there is one; None where it was not measured."""


@dataclass(frozen=True)
class Place:
    """A task and model that count."""

    task: str
    model: str
    metric: str
    constant: float | None
    """The score that is 0 on the normalised scale, in the metric's own unit; None where it is not known."""
    top: float
    """The score that is 1: what the best method that counts is expected to score."""
    unscaled: str
    """Why it has no normalised scores and counts for ranks and improvements alone; empty where it has them."""
    width: float | None
    """Of the best method's 95 % interval, in normalised scores."""

    @property
    def title(self) -> str:
        """The task and the model."""
        return title_of(self.task, self.model)


@dataclass(frozen=True)
class Across:
    """The methods over several tasks and models; the one most probably the best comes first."""

    lines: tuple[Line, ...]
    places: tuple[Place, ...]
    decided_by: str
    """The normalised score, or the rank where fewer than two places have a scale."""
    settled: bool
    """Whether the first is the best with a probability of 95 % or more."""
    difference: Estimate
    """By how much the first is better than the second, in what decides."""
    pocket: bool = False
    """Whether the models are pocket models, from which nothing follows for larger ones."""
    by: str = ""
    baseline: str | None = None
    """The method that costs are relative to; None where they are absolute."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Methods, tasks and models that do not count, with the reasons."""
    remarks: tuple[str, ...] = ()
    """What every conclusion has to say."""
    thresholds: tuple[float, ...] = THRESHOLDS
    """Those of the performance profiles."""

    @property
    def deciding(self) -> tuple[Place, ...]:
        """The tasks and models that the verdict holds for."""
        return tuple(each for each in self.places if self.decided_by == RANK or not each.unscaled)

    @property
    def verdict(self) -> str:
        """Which method is the best overall, in one sentence that names the tasks and models."""
        first, second = self.lines[:2]
        answer = f"{first.method} ({write_probability(first.best)})"
        if not self.settled:
            gap = self.difference
            answer = (
                f"not settled: {first.method} ({percent(first.best)}) or {second.method} ({percent(second.best)}), a "
                f"difference of {gap.mean:.3f} ({gap.low:.3f} – {gap.high:.3f})"
            )
        what = f"mean {self.decided_by}"
        where = f"by {what} on {places_of(self.deciding)}"
        if self.pocket:
            return f"On pocket models: {answer}, {where}. {POCKET}"
        return f"Overall: {answer}, {where}"


def places_of(places: Sequence[Place]) -> str:
    """Tasks and models, such as ``3 tasks with t5-base: cola, rte, sst2``."""
    by_model: dict[str, list[str]] = defaultdict(list)
    for place in places:
        by_model[place.model].append(place.task)
    return " and ".join(
        f"{len(tasks)} {'task' if len(tasks) == 1 else 'tasks'} with {model}: {', '.join(tasks)}"
        for model, tasks in by_model.items()
    )


def normalised(draws: Array, constant: float) -> Array:
    """Scores on the scale on which the constant answer is 0 and the expected score of the best method 1.

    Args:
        draws: draws × methods; higher is better.
        constant: the score of the constant answer.
    """
    found: Array = (draws - constant) / (draws.mean(0).max() - constant)
    return found


def interquartile_mean(values: Array) -> Array:
    """The mean of the middle half along the first axis; of few values, the outer ones count by the part inside."""
    number = len(values)
    edges = np.arange(number + 1) / number
    weights = np.diff(np.clip(edges, 0.25, 0.75)) / 0.5
    found: Array = np.tensordot(weights, np.sort(values, axis=0), axes=1)
    return found


def aggregated(parts: Sequence[Part], names: Sequence[str]) -> Across:
    """What joint draws of parts say of methods; neither the order of the parts nor that of the methods matters.

    Args:
        parts: two or more that have all methods, and in which one of them is above the constant answer.
        names: the methods that count, two or more.
    """
    parts = sorted(parts, key=lambda part: (part.task, part.model))
    names = sorted(names)
    number = min(len(part.draws) for part in parts)
    drawn = [_independent(part, names)[:number] for part in parts]
    scaled = [
        None if part.constant is None else normalised(each, part.constant)
        for part, each in zip(parts, drawn, strict=True)
    ]
    known = [each for each in scaled if each is not None]
    scores = np.stack(known) if len(known) >= FEWEST else None
    ranks = np.mean([stats.rankdata(-each, axis=1) for each in drawn], axis=0)
    quality = -ranks if scores is None else scores.mean(0)
    top = quality >= quality.max(1, keepdims=True) - 1e-12
    best = (top / top.sum(1, keepdims=True)).mean(0)  # equal ones have equal parts of a draw
    order = sorted(range(len(names)), key=lambda i: (-best[i], -quality[:, i].mean(), names[i]))
    first, second = order[:2]
    ahead = np.mean([(np.sign(each[:, [first]] - each) + 1) / 2 for each in drawn], axis=0)
    lines = [
        Line(
            method=names[i],
            score=None if scores is None else _estimate(quality[:, i]),
            iqm=None if scores is None else _estimate(interquartile_mean(scores[:, :, i])),
            rank=_estimate(ranks[:, i]),
            best=float(best[i]),
            improvement=None if i == first else _estimate(ahead[:, i]),
            profile=()
            if scores is None
            else tuple(_estimate((scores[:, :, i] >= threshold).mean(0)) for threshold in THRESHOLDS),
        )
        for i in order
    ]
    return Across(
        lines=tuple(lines),
        places=tuple(
            _place(part, each, None if scores is None else own)
            for part, each, own in zip(parts, drawn, scaled, strict=True)
        ),
        decided_by=RANK if scores is None else SCORE,
        settled=bool(best[first] >= LEVEL),
        difference=_estimate(quality[:, first] - quality[:, second]),
    )


def _independent(part: Part, names: Sequence[str]) -> Array:
    """The draws of the methods in an order of the part's own: fits with one seed would move parts together."""
    seed = int.from_bytes(sha256(f"{part.task}\0{part.model}".encode()).digest()[:8])
    order = np.random.default_rng(seed).permutation(len(part.draws))
    found: Array = part.draws[order][:, [part.names.index(name) for name in names]]
    return found


def _place(part: Part, draws: Array, scores: Array | None) -> Place:
    best = draws.mean(0).argmax()
    width = None if scores is None else float(np.ptp(np.quantile(scores[:, best], TAILS)))
    return Place(
        task=part.task,
        model=part.model,
        metric=part.metric,
        constant=None if part.constant is None else part.sign * part.constant,
        top=part.sign * float(draws[:, best].mean()),
        unscaled="" if scores is not None else part.unscaled or "no other has a constant answer",
        width=width,
    )


def _estimate(values: Array) -> Estimate:
    low, high = np.quantile(values, TAILS)
    return Estimate(float(values.mean()), float(low), float(high))
