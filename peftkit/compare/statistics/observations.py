"""What was measured: scores per method, seed and example, reduced to what the hierarchical model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ANSCOMBE = 3 / 8
PSEUDO = 2.0
"""Wrong answers of each method that stand beside the measured ones: of perfect scores there are none."""
SHARED = 0.7
"""The correlation between two methods over those; what each has of its own is known the better, the more there are."""
POINT = 0.01
"""The standard deviation between seeds that is expected of shares, and of losses relative to them."""
TYPICAL_SEEDS = 0.025
"""The same of other scores, in standard deviations of example scores."""
STEEPEST = 0.97
"""The share from which on that is no longer a point, but less: the scale on which shares are modelled grows steep."""
SHARE_UNIT = 0.5
"""The standard deviation of one answer on the arcsine scale, whatever its probability."""
INSIDE = 0.005
"""How far shares are from 0 and 1 at least, where nobody knows of how many examples they are."""


@dataclass(frozen=True)
class Scale:
    """The scale on which scores are modelled, on which higher is better and the variance does not depend on the score.

    Shares are modelled as the arcsine of their square root (Anscombe, 1948) and never leave [0, 1]; losses as their
    logarithm; other scores as they are.
    """

    kind: Literal["share", "loss", "plain"]
    sign: float

    def score(self, values: Array) -> Array:
        """Scores of values of the model."""
        values = self.sign * values
        if self.kind == "share":
            return np.asarray(np.sin(np.clip(values, 0.0, np.pi / 2)) ** 2)
        return np.exp(values) if self.kind == "loss" else values


@dataclass(frozen=True)
class Observations:
    """Means of methods on the model's scale, and how they vary."""

    names: tuple[str, ...]
    scale: Scale
    means: Array
    """Of each method over its seeds."""
    raw: Array
    """The same as scores."""
    seeds: Array
    """How many."""
    squares: Array
    """The sum of squared deviations of its seeds' means from its own."""
    run_variance: float
    """The variance of a run's mean by what that run alone makes of examples: a lower bound of that between seeds."""
    common: float
    """The variance over groups of examples of what all methods have in common."""
    interaction: float
    """And of what each method has of its own."""
    typical: float
    """The standard deviation between seeds that is expected before any run is seen."""
    slope: Array
    """Of the model's scale by the score, at each method's mean."""
    unit: float
    """The standard deviation of one example's score on the model's scale."""
    groups: int
    """Of test examples, which vary independently; 0 where they are not known."""


@dataclass(frozen=True)
class _Examples:
    """Variances of means over examples, as scores, averaged over methods."""

    whole: float
    """Of a method's expected mean over seeds."""
    shared: float
    """The covariance of two methods' means."""
    runs: float
    """Of a run's mean by what that run alone makes of examples."""
    groups: int


def observe(
    scores: Mapping[str, Mapping[int, Array]],
    *,
    share: bool,
    higher_is_better: bool = True,
    groups: Sequence[str] | None = None,
    means: Mapping[str, Mapping[int, float]] | None = None,
    rows: int = 0,
) -> Observations:
    """Reduces scores to their means, and their variances over seeds and groups of examples.

    Args:
        scores: by method and seed the score of each example, or a single score where that is all there is.
        share: whether scores are shares in [0, 1].
        higher_is_better: whether more of the metric is better.
        groups: the group of each example, empty where it is alone; None where all are.
        means: the runs' scores, where they are others than the means of examples (those of an earlier checkpoint).
        rows: the number of test examples, where there are single scores of shares alone.
    """
    names = tuple(sorted(scores))
    values = [np.stack([scores[name][seed] for seed in sorted(scores[name])]) for name in names]
    own = [each.mean(1) for each in values]
    if means is not None:
        own = [np.array([means[name][seed] for seed in sorted(scores[name])]) for name in names]
    raw, counts = np.array([each.mean() for each in own]), np.array([len(each) for each in own], dtype=float)
    squares = np.array([((each - each.mean()) ** 2).sum() for each in own])
    # Variances over examples belong to the scores that these examples have, whatever the runs' scores are.
    of_examples = np.array([each.mean() for each in values])
    number = values[0].shape[1] if values[0].shape[1] > 1 else rows
    over = _over_examples(values, groups) if values[0].shape[1] > 1 else None
    sign = 1.0 if higher_is_better else -1.0
    if share:
        return _of_shares(
            names, sign, raw, counts, squares, over, number, float((of_examples * (1 - of_examples)).mean())
        )
    loss = bool(not higher_is_better and (raw > 0).all())
    scale = Scale("loss" if loss else "plain", sign)
    slope = sign / raw if loss else np.full(len(raw), sign)
    over = over or _Examples(0.0, 0.0, 0.0, 0)
    squares = slope**2 * squares
    factor = float((of_examples**-2).mean()) if loss and (of_examples > 0).all() else float((slope**2).mean())
    unit = float(np.sqrt(number * factor * (over.whole + over.runs)))
    if not unit:
        free = (counts - 1).sum()
        unit = float(np.sqrt(squares.sum() / free)) / TYPICAL_SEEDS if free and squares.any() else 1e-9
    return Observations(
        names,
        scale,
        sign * np.log(raw) if loss else sign * raw,
        raw,
        counts,
        squares,
        factor * over.runs,
        factor * over.shared,
        factor * (over.whole - over.shared),
        POINT if loss else TYPICAL_SEEDS * unit,
        slope,
        unit,
        over.groups,
    )


def _of_shares(
    names: tuple[str, ...],
    sign: float,
    raw: Array,
    counts: Array,
    squares: Array,
    over: _Examples | None,
    number: int,
    spread: float,
) -> Observations:
    """Shares on the arcsine scale: variances are those of so many answers, times ratios that are measured."""
    ratio, runs, correlation, groups = 1.0, 0.0, 0.0, number
    inside = np.clip(raw, INSIDE, 1 - INSIDE)
    if over is not None:
        # In wrong answers: those of a method, and how many independent ones its variances are worth.
        pseudo = PSEUDO * (SHARED + (1 - SHARED) * min(1.0, 2 / len(raw)))
        answers = number * max(0.0, spread) + pseudo
        design = number / over.groups
        whole = number**2 * over.whole + pseudo * design
        ratio, runs, groups = whole / answers, number**2 * over.runs / answers, over.groups
        correlation = (number**2 * over.shared + PSEUDO * design * SHARED) / whole
    if number:
        effective = number / (ratio + runs / counts)
        inside = (effective * raw + ANSCOMBE) / (effective + 2 * ANSCOMBE)
    variance = 1 / (4 * number) if number else 0.0
    slope = sign / (2 * np.sqrt(inside * (1 - inside)))
    level = float(np.clip(np.median(inside), 1 - STEEPEST, STEEPEST))
    return Observations(
        names,
        Scale("share", sign),
        sign * np.arcsin(np.sqrt(inside)),
        raw,
        counts,
        slope**2 * squares,
        runs * variance,
        correlation * ratio * variance,
        (1 - correlation) * ratio * variance,
        POINT / (2 * np.sqrt(level * (1 - level))),
        slope,
        SHARE_UNIT,
        groups,
    )


def members_of(groups: Sequence[str] | None, examples: int) -> NDArray[np.int64]:
    """The number of each example's group, from 0."""
    if groups is None:
        return np.arange(examples)
    names = [group or number for number, group in enumerate(groups)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


def _over_examples(values: Sequence[Array], groups: Sequence[str] | None) -> _Examples:
    """Variances over groups, from the covariance of all methods' means.

    What a run alone makes of an example varies between seeds too, and is taken out. Variances are averaged over
    methods: which method varies more, or more like another, is seen in the very scores that are to be compared, and
    would take part of a difference for noise.
    """
    number = values[0].shape[1]
    members = members_of(groups, number)
    sizes = np.bincount(members)
    several = len(sizes) / max(1, len(sizes) - 1) / number**2
    table, runs = [], []
    for each in values:
        deviations = each - each.mean(1, keepdims=True)
        if len(sizes) < number:
            deviations = np.stack([np.bincount(members, row, len(sizes)) for row in deviations])
        mean = deviations.mean(0)
        table.append(mean)
        if len(each) > 1:
            runs.append(((deviations - mean) ** 2).sum() / (len(each) - 1))
    means = np.stack(table)
    alone = float(np.mean(runs)) * several if runs else 0.0
    total = float((means**2).sum(1).mean()) * several
    whole = total - alone * float(np.mean([1 / len(each) for each in values if len(each) > 1] or [0.0]))
    whole = max(whole, 0.05 * total)
    shared = whole
    if len(values) > 1:
        square = float((means.sum(0) ** 2).sum() - (means**2).sum()) * several
        shared = min(max(0.0, square / (len(values) * (len(values) - 1))), whole)
    return _Examples(whole, shared, alone, len(sizes))
