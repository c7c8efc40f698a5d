"""Aggregates scores over tasks and models: normalised scores, ranks and performance profiles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from scipy import stats

from peftkit.compare.statistics.observations import Array
from peftkit.compare.statistics.posterior import CONFIDENCE_LEVEL, INTERVAL_QUANTILES
from peftkit.compare.verdict import format_percent, format_probability

MIN_COMPARED = 2
"""The smallest number of tasks (with their models), and of methods."""
PROFILE_THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(23))
"""Normalised scores at which performance profiles are evaluated (Agarwal et al., 2021)."""
POCKET_CAVEAT = "Pocket models are too small to generalise: results do not carry over to larger models"
BY_SCORE, BY_RANK = "normalised score", "rank"
"""The criterion by which the best method is determined."""


def format_title(task: str, model: str) -> str:
    """Format a task and model.

    Args:
        task: the task's name.
        model: the model's name.

    Returns:
        The text.
    """
    return f"{task} with {model}"


@dataclass(frozen=True, eq=False)
class TaskPosterior:
    """The posterior of the methods of one task and model."""

    task: str
    model: str
    metric: str
    methods: tuple[str, ...]
    draws: Array
    """Posterior draws of expected scores, shape (draws, methods); higher is better."""
    constant_score: float | None
    """The score of the best constant answer, with the sign of the draws; None if unknown."""
    no_scale_because: str = ""
    """Why the constant score is unknown; empty if it is known."""
    sign: float = 1.0
    """-1 if lower values of the metric are better, otherwise 1."""
    seeds_only_because: str = ""
    """Why intervals cover the variance of seeds only; empty if they cover test examples too."""
    split: str = "test"
    """The split of the scores: test, or an evaluation set."""

    @property
    def title(self) -> str:
        """The task and the model."""
        return format_title(self.task, self.model)


@dataclass(frozen=True)
class Estimate:
    """A posterior mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class AcrossTasksRow:
    """One method over all tasks and models."""

    method: str
    score: Estimate | None
    """The mean normalised score; None without a scale."""
    iqm: Estimate | None
    """The interquartile mean of the normalised scores."""
    rank: Estimate
    """The mean rank; 1 is best."""
    best: float
    """The probability of the highest mean normalised score, or without a scale, of the lowest mean rank."""
    improvement: Estimate | None
    """The probability that the leading method scores higher, mean over tasks and models; None for the leading one."""
    profile: tuple[Estimate, ...]
    """By threshold, the share of tasks and models whose normalised score reaches it; empty without scores."""
    cost: float | None = None
    """Mean cost over tasks and models, relative to the baseline if there is one; None if not measured everywhere."""


@dataclass(frozen=True)
class TaskSummary:
    """A task and model that the comparison covers."""

    task: str
    model: str
    metric: str
    constant: float | None
    """The score that is 0 on the normalised scale, in the unit of the metric; None if unknown."""
    top: float
    """The score that is 1 on the normalised scale: the expected score of the best method."""
    unscaled: str
    """Why it has no normalised scores and counts for ranks and improvements only; empty if it has them."""
    width: float | None
    """The width of the best method's 95 % interval, in normalised scores."""
    split: str = "test"
    """The split of the scores: test, or an evaluation set."""

    @property
    def title(self) -> str:
        """The task and the model."""
        return format_title(self.task, self.model)


@dataclass(frozen=True)
class AcrossTasks:
    """A comparison of methods across tasks and models."""

    lines: tuple[AcrossTasksRow, ...]
    """The methods, the most probable best first."""
    places: tuple[TaskSummary, ...]
    decided_by: str
    """``BY_SCORE``, or ``BY_RANK`` if fewer than two tasks have a scale."""
    settled: bool
    """Whether the first method is the best with a probability of 95 % or more."""
    difference: Estimate
    """How much better the first method is than the second, in the deciding criterion."""
    pocket: bool = False
    """Whether the models are pocket models, whose results do not carry over to larger ones."""
    by: str = ""
    """The axis of costs."""
    baseline: str | None = None
    """The method that costs are relative to; None for absolute costs."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Methods, tasks and models that were left out, with the reasons."""
    remarks: tuple[str, ...] = ()
    """Caveats that hold for every conclusion."""
    thresholds: tuple[float, ...] = PROFILE_THRESHOLDS
    """Thresholds of the performance profiles."""

    @property
    def deciding_tasks(self) -> tuple[TaskSummary, ...]:
        """The tasks and models that the verdict holds for."""
        return tuple(each for each in self.places if self.decided_by == BY_RANK or not each.unscaled)

    @property
    def verdict(self) -> str:
        """The best method overall, in one sentence that names the tasks and models."""
        first, second = self.lines[:2]
        answer = f"{first.method} ({format_probability(first.best)})"
        if not self.settled:
            gap = self.difference
            answer = (
                f"not settled: {first.method} ({format_percent(first.best)}) or {second.method} "
                f"({format_percent(second.best)}), a difference of {gap.mean:.3f} ({gap.low:.3f} – {gap.high:.3f})"
            )
        criterion = f"by mean {self.decided_by} on {describe_tasks(self.deciding_tasks)}"
        if self.pocket:
            return f"On pocket models: {answer}, {criterion}. {POCKET_CAVEAT}"
        return f"Overall: {answer}, {criterion}"


def describe_tasks(places: Sequence[TaskSummary]) -> str:
    """Format tasks by model, such as ``3 tasks with t5-base: cola, rte, sst2``."""
    by_model: dict[str, list[str]] = defaultdict(list)
    for place in places:
        by_model[place.model].append(place.task)
    return " and ".join(
        f"{len(tasks)} {'task' if len(tasks) == 1 else 'tasks'} with {model}: {', '.join(tasks)}"
        for model, tasks in by_model.items()
    )


def normalize_scores(draws: Array, constant: float) -> Array:
    """Rescale scores so that the constant answer is 0 and the expected score of the best method is 1.

    Args:
        draws: posterior draws of scores, shape (draws, methods); higher is better.
        constant: the score of the constant answer.

    Returns:
        The normalised scores, of the same shape.
    """
    scores: Array = (draws - constant) / (draws.mean(0).max() - constant)
    return scores


def interquartile_mean(values: Array) -> Array:
    """Compute the mean of the middle half along the first axis; values at its edges are weighted by the part inside."""
    number = len(values)
    edges = np.arange(number + 1) / number
    weights = np.diff(np.clip(edges, 0.25, 0.75)) / 0.5
    means: Array = np.tensordot(weights, np.sort(values, axis=0), axes=1)
    return means


def aggregate_tasks(parts: Sequence[TaskPosterior], names: Sequence[str]) -> AcrossTasks:
    """Compare methods across tasks and models.

    The result depends neither on the order of the parts nor on that of the names.

    Args:
        parts: two or more, each with all methods, of which at least one scores above the constant answer.
        names: the methods to compare, two or more.

    Returns:
        The comparison, without costs.
    """
    parts = sorted(parts, key=lambda part: (part.task, part.model))
    names = sorted(names)
    number = min(len(part.draws) for part in parts)
    draws = [_independent_draws(part, names)[:number] for part in parts]
    scaled = [
        None if part.constant_score is None else normalize_scores(each, part.constant_score)
        for part, each in zip(parts, draws, strict=True)
    ]
    known = [each for each in scaled if each is not None]
    scores = np.stack(known) if len(known) >= MIN_COMPARED else None
    ranks = np.mean([stats.rankdata(-each, axis=1) for each in draws], axis=0)
    quality = -ranks if scores is None else scores.mean(0)
    top = quality >= quality.max(1, keepdims=True) - 1e-12
    best = (top / top.sum(1, keepdims=True)).mean(0)  # ties share a draw equally
    order = sorted(range(len(names)), key=lambda i: (-best[i], -quality[:, i].mean(), names[i]))
    first, second = order[:2]
    ahead = np.mean([(np.sign(each[:, [first]] - each) + 1) / 2 for each in draws], axis=0)
    lines = [
        AcrossTasksRow(
            method=names[i],
            score=None if scores is None else _estimate(quality[:, i]),
            iqm=None if scores is None else _estimate(interquartile_mean(scores[:, :, i])),
            rank=_estimate(ranks[:, i]),
            best=float(best[i]),
            improvement=None if i == first else _estimate(ahead[:, i]),
            profile=()
            if scores is None
            else tuple(_estimate((scores[:, :, i] >= threshold).mean(0)) for threshold in PROFILE_THRESHOLDS),
        )
        for i in order
    ]
    return AcrossTasks(
        lines=tuple(lines),
        places=tuple(
            _place(part, each, None if scores is None else scaled_draws)
            for part, each, scaled_draws in zip(parts, draws, scaled, strict=True)
        ),
        decided_by=BY_RANK if scores is None else BY_SCORE,
        settled=bool(best[first] >= CONFIDENCE_LEVEL),
        difference=_estimate(quality[:, first] - quality[:, second]),
    )


def _independent_draws(part: TaskPosterior, names: Sequence[str]) -> Array:
    """The draws in an order specific to the part, since fits with the same random seed would correlate the parts."""
    seed = int.from_bytes(sha256(f"{part.task}\0{part.model}".encode()).digest()[:8])
    order = np.random.default_rng(seed).permutation(len(part.draws))
    draws: Array = part.draws[order][:, [part.methods.index(name) for name in names]]
    return draws


def _place(part: TaskPosterior, draws: Array, scores: Array | None) -> TaskSummary:
    best = draws.mean(0).argmax()
    width = None if scores is None else float(np.ptp(np.quantile(scores[:, best], INTERVAL_QUANTILES)))
    return TaskSummary(
        task=part.task,
        model=part.model,
        metric=part.metric,
        constant=None if part.constant_score is None else part.sign * part.constant_score,
        top=part.sign * float(draws[:, best].mean()),
        unscaled="" if scores is not None else part.no_scale_because or "no other task has a constant answer",
        width=width,
        split=part.split,
    )


def _estimate(values: Array) -> Estimate:
    low, high = np.quantile(values, INTERVAL_QUANTILES)
    return Estimate(float(values.mean()), float(low), float(high))
