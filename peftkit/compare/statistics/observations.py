"""Reduces scores per method, seed and example to the sufficient statistics of the hierarchical model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ANSCOMBE_CORRECTION = 3 / 8
"""The continuity correction of Anscombe (1948)."""
PSEUDO_ERRORS = 2.0
"""Wrong answers added to each method's, so that perfect scores have a variance too."""
PSEUDO_CORRELATION = 0.7
"""The correlation between two methods over these pseudo-answers. The rest is shrunk with the number of methods."""
PRIOR_SEED_DEVIATION = 0.01
"""The prior standard deviation between seeds of proportions, and of losses relative to their value."""
PRIOR_RELATIVE_SEED_DEVIATION = 0.025
"""The prior standard deviation between seeds of other scores, in standard deviations of example scores."""
STEEP_PROPORTION = 0.97
"""The proportion above which the prior standard deviation is below ``PRIOR_SEED_DEVIATION``.

The arcsine scale is steep there.
"""
ARCSINE_DEVIATION = 0.5
"""The standard deviation of one answer on the arcsine scale, which does not depend on its probability."""
MIN_DISTANCE_FROM_BOUNDS = 0.005
"""The least distance of proportions from 0 and 1 where the number of examples is unknown."""


@dataclass(frozen=True)
class Scale:
    """The variance-stabilizing scale on which scores are modelled. Higher is better.

    Proportions are modelled as the arcsine of their square root (Anscombe, 1948) and stay in [0, 1]; losses as their
    logarithm; other scores as they are.
    """

    kind: Literal["share", "loss", "plain"]
    sign: float
    """1 if higher scores are better, else -1."""

    def to_score(self, values: Array) -> Array:
        """Transform values of any shape from the model's scale back to scores of the same shape."""
        values = self.sign * values
        if self.kind == "share":
            return np.asarray(np.sin(np.clip(values, 0.0, np.pi / 2)) ** 2)
        return np.exp(values) if self.kind == "loss" else values


@dataclass(frozen=True)
class Observations:
    """Means and variances of methods. Variances are on the model's scale; arrays have shape (methods,)."""

    names: tuple[str, ...]
    scale: Scale
    means: Array
    """The mean over seeds, on the model's scale."""
    mean_scores: Array
    """The mean over seeds, as a score."""
    num_seeds: Array
    """The number of seeds."""
    sum_squares: Array
    """The sum over seeds of squared deviations from the method's mean."""
    run_example_variance: float
    """The variance of a run's mean from the interaction of seed and example: a lower bound of that between seeds."""
    shared_example_variance: float
    """The variance over example groups that all methods share."""
    method_example_variance: float
    """The variance over example groups that is specific to each method."""
    prior_seed_deviation: float
    """The prior standard deviation between seeds."""
    scale_derivative: Array
    """The derivative of the model's scale with respect to the score, at each method's mean."""
    example_deviation: float
    """The standard deviation of one example's score, on the model's scale."""
    num_groups: int
    """The number of independent groups of test examples; 0 if unknown."""


@dataclass(frozen=True)
class _ExampleVariances:
    """Variances of means over examples, in units of the score, averaged over methods."""

    whole: float
    """Of a method's expected mean over seeds."""
    shared: float
    """The covariance of two methods' means."""
    runs: float
    """Of a run's mean, from the interaction of seed and example."""
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
    """Reduce scores to means, and their variances over seeds and groups of examples.

    Args:
        scores: Scores of shape (examples,) by method and seed; of shape (1,) without scores per example.
        share: Whether scores are proportions in [0, 1].
        higher_is_better: Whether higher scores are better.
        groups: The group of each example, empty for an example without one; None if no example is in a group.
        means: Scores of the runs, if they differ from the means over examples (those of an earlier checkpoint).
        rows: The number of test examples, for proportions without scores per example.
    """
    names = tuple(sorted(scores))
    values = [np.stack([scores[name][seed] for seed in sorted(scores[name])]) for name in names]
    seed_means = [each.mean(1) for each in values]
    if means is not None:
        seed_means = [np.array([means[name][seed] for seed in sorted(scores[name])]) for name in names]
    raw = np.array([each.mean() for each in seed_means])
    counts = np.array([len(each) for each in seed_means], dtype=float)
    squares = np.array([((each - each.mean()) ** 2).sum() for each in seed_means])
    # The variance over examples is that of the scores per example, even if the runs' scores differ from their means.
    example_means = np.array([each.mean() for each in values])
    number = values[0].shape[1] if values[0].shape[1] > 1 else rows
    over = _variances_over_examples(values, groups) if values[0].shape[1] > 1 else None
    sign = 1.0 if higher_is_better else -1.0
    if share:
        answer_variance = float((example_means * (1 - example_means)).mean())
        return _observe_proportions(names, sign, raw, counts, squares, over, number, answer_variance)
    loss = bool(not higher_is_better and (raw > 0).all())
    scale = Scale("loss" if loss else "plain", sign)
    slope = sign / raw if loss else np.full(len(raw), sign)
    over = over or _ExampleVariances(0.0, 0.0, 0.0, 0)
    squares = slope**2 * squares
    factor = float((example_means**-2).mean()) if loss and (example_means > 0).all() else float((slope**2).mean())
    unit = float(np.sqrt(number * factor * (over.whole + over.runs)))
    if not unit:
        free = (counts - 1).sum()
        unit = float(np.sqrt(squares.sum() / free)) / PRIOR_RELATIVE_SEED_DEVIATION if free and squares.any() else 1e-9
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
        PRIOR_SEED_DEVIATION if loss else PRIOR_RELATIVE_SEED_DEVIATION * unit,
        slope,
        unit,
        over.groups,
    )


def _observe_proportions(
    names: tuple[str, ...],
    sign: float,
    raw: Array,
    counts: Array,
    squares: Array,
    over: _ExampleVariances | None,
    number: int,
    answer_variance: float,
) -> Observations:
    """Proportions on the arcsine scale: binomial variances, times the ratios by which the measured ones differ."""
    ratio, runs, correlation, groups = 1.0, 0.0, 0.0, number
    inside = np.clip(raw, MIN_DISTANCE_FROM_BOUNDS, 1 - MIN_DISTANCE_FROM_BOUNDS)
    if over is not None:
        # In units of wrong answers: their binomial variance, and the ratio of the measured variance to it.
        pseudo = PSEUDO_ERRORS * (PSEUDO_CORRELATION + (1 - PSEUDO_CORRELATION) * min(1.0, 2 / len(raw)))
        binomial = number * max(0.0, answer_variance) + pseudo
        design = number / over.groups
        whole = number**2 * over.whole + pseudo * design
        ratio, runs, groups = whole / binomial, number**2 * over.runs / binomial, over.groups
        correlation = (number**2 * over.shared + PSEUDO_ERRORS * design * PSEUDO_CORRELATION) / whole
    if number:
        effective = number / (ratio + runs / counts)
        inside = (effective * raw + ANSCOMBE_CORRECTION) / (effective + 2 * ANSCOMBE_CORRECTION)
    variance = 1 / (4 * number) if number else 0.0
    slope = sign / (2 * np.sqrt(inside * (1 - inside)))
    level = float(np.clip(np.median(inside), 1 - STEEP_PROPORTION, STEEP_PROPORTION))
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
        PRIOR_SEED_DEVIATION / (2 * np.sqrt(level * (1 - level))),
        slope,
        ARCSINE_DEVIATION,
        groups,
    )


def group_numbers(groups: Sequence[str] | None, examples: int) -> NDArray[np.int64]:
    """Number the groups of examples from 0.

    Args:
        groups: The group of each example, empty for an example without one; None if no example is in a group.
        examples: The number of examples.

    Returns:
        The group number of each example, of shape (examples,).
    """
    if groups is None:
        return np.arange(examples)
    names = [group or number for number, group in enumerate(groups)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


def _variances_over_examples(values: Sequence[Array], groups: Sequence[str] | None) -> _ExampleVariances:
    """Variances over groups of examples, from the covariance of the methods' means.

    The interaction of seed and example is part of the variance between seeds, and is subtracted. Variances are averaged
    over methods: estimating them for each method from the scores that are compared would count part of a difference as
    noise.
    """
    number = values[0].shape[1]
    members = group_numbers(groups, number)
    sizes = np.bincount(members)
    scale = len(sizes) / max(1, len(sizes) - 1) / number**2
    method_deviations, run_squares = [], []
    for each in values:
        deviations = each - each.mean(1, keepdims=True)
        if len(sizes) < number:
            deviations = np.stack([np.bincount(members, row, len(sizes)) for row in deviations])
        mean = deviations.mean(0)
        method_deviations.append(mean)
        if len(each) > 1:
            run_squares.append(((deviations - mean) ** 2).sum() / (len(each) - 1))
    means = np.stack(method_deviations)
    runs = float(np.mean(run_squares)) * scale if run_squares else 0.0
    total = float((means**2).sum(1).mean()) * scale
    whole = total - runs * float(np.mean([1 / len(each) for each in values if len(each) > 1] or [0.0]))
    whole = max(whole, 0.05 * total)
    shared = whole
    if len(values) > 1:
        cross = float((means.sum(0) ** 2).sum() - (means**2).sum()) * scale
        shared = min(max(0.0, cross / (len(values) * (len(values) - 1))), whole)
    return _ExampleVariances(whole, shared, runs, len(sizes))
