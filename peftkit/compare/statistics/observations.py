"""What was measured: scores per method, seed and example, reduced to what the hierarchical model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ANSCOMBE = 3 / 8
PSEUDO = 2.0
"""Wrong answers that a method's variance over examples borrows from the others: of a perfect score there are none."""
RATIO = 10.0
"""And how many where only the ratio to the variance of independent answers is borrowed."""
SHARED = 0.7
"""The correlation between methods over examples, where there are too few wrong answers to know it."""
TYPICAL_SEEDS = 0.025
"""The standard deviation between seeds that is expected, in standard deviations of example scores: about one point."""
SHARE_UNIT = 0.5
"""The standard deviation of one answer on the arcsine scale, whatever its probability."""


@dataclass(frozen=True)
class Scale:
    """The scale on which scores are modelled: the arcsine of the square root for shares, else their own.

    On the arcsine scale the variance of a share does not depend on it (Anscombe, 1948), and no share leaves [0, 1].
    """

    share: bool
    higher_is_better: bool = True

    @property
    def sign(self) -> float:
        return 1.0 if self.higher_is_better else -1.0

    def score(self, values: Array) -> Array:
        """Scores of values of the model, in which higher is better."""
        values = self.sign * values
        if not self.share:
            return values
        squared: Array = np.sin(np.clip(values, 0.0, np.pi / 2)) ** 2
        return squared


@dataclass(frozen=True)
class Observations:
    """Means of methods on the model's scale, in which higher is better, and how they vary."""

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
    run_variance: Array
    """The variance of a run's mean by what that run alone makes of examples: a lower bound of that between seeds."""
    examples: Array
    """The covariance between methods of their means over test examples."""
    slope: Array
    """Of the model's scale by the score, at each method's mean."""
    unit: float
    """The standard deviation of one example's score on the model's scale."""
    groups: int
    """Of test examples, which vary independently; 0 where examples are not known."""


def observe(
    scores: Mapping[str, Mapping[int, Array]],
    scale: Scale,
    *,
    groups: Sequence[str] | None = None,
    means: Mapping[str, Mapping[int, float]] | None = None,
    rows: int = 0,
) -> Observations:
    """Reduces scores to their means, and covariances over groups of examples.

    Args:
        scores: by method and seed the score of each example, or a single score where that is all there is.
        scale: on which they are modelled.
        groups: the group of each example, empty where it is alone; None where all are.
        means: the runs' scores, where they are others than the means of examples (those of an earlier checkpoint).
        rows: the number of test examples, where there are single scores of shares alone.
    """
    names = tuple(sorted(scores))
    values = [np.stack([scores[name][seed] for seed in sorted(scores[name])]) for name in names]
    counts = np.array([len(each) for each in values], dtype=float)
    known = values[0].shape[1] > 1
    if means is None:
        own = [each.mean(1) for each in values]
    else:
        own = [np.array([means[name][seed] for seed in sorted(scores[name])]) for name in names]
    raw = np.array([each.mean() for each in own])
    squares = np.array([((each - each.mean()) ** 2).sum() for each in own])
    number = values[0].shape[1] if known else rows
    covariance, runs, independent = _over_examples(values, groups) if known else (None, np.zeros(len(raw)), number)
    if scale.share:
        return _of_shares(names, scale, raw, counts, squares, covariance, runs, number, independent)
    if covariance is None:
        covariance = np.zeros((len(raw), len(raw)))
    else:
        deviations = np.sqrt(np.diag(covariance))
        covariance = _correlation(covariance, independent) * np.outer(deviations, deviations)
    unit = float(np.sqrt(number * (np.diag(covariance) + runs / counts).mean())) if number else 0.0
    if not unit:
        free = (counts - 1).sum()
        unit = float(np.sqrt(squares.sum() / free)) / TYPICAL_SEEDS if free and squares.any() else 1e-9
    slope = np.full(len(raw), scale.sign)
    return Observations(names, scale, scale.sign * raw, raw, counts, squares, runs, covariance, slope, unit, independent)


def _of_shares(
    names: tuple[str, ...],
    scale: Scale,
    raw: Array,
    counts: Array,
    squares: Array,
    covariance: Array | None,
    runs: Array,
    number: int,
    independent: int,
) -> Observations:
    """Shares on the arcsine scale: variances are those of so many answers, times a ratio that is measured."""
    spread = raw * (1 - raw)
    if not number:  # shares of nobody knows how many
        effective, inside = np.inf, np.clip(raw, 0.005, 0.995)
        ratio = flips = np.zeros(len(raw))
        correlation = np.eye(len(raw))
    else:
        ones = np.diag(covariance) if covariance is not None else spread / number
        ratio = _ratio(number**2 * ones, number * spread, number / max(1, independent))
        flips = _ratio(number**2 * runs, number * spread, 0.0)
        effective = number / (ratio + flips / counts)
        inside = (effective * raw + ANSCOMBE) / (effective + 2 * ANSCOMBE)
        correlation = np.eye(len(raw))
        if covariance is not None:
            # Where there are few wrong answers, methods are taken to have most of them in common.
            prior = PSEUDO * (SHARED + (1 - SHARED) * np.eye(len(raw)))
            correlation = _correlation(number**2 * covariance + prior, independent)
    number = max(1, number)
    deviations = np.sqrt(ratio / (4 * number))
    slope = scale.sign / (2 * np.sqrt(inside * (1 - inside)))
    return Observations(
        names,
        scale,
        scale.sign * np.arcsin(np.sqrt(inside)),
        raw,
        counts,
        slope**2 * squares,
        flips / (4 * number),
        correlation * np.outer(deviations, deviations),
        slope,
        SHARE_UNIT,
        independent,
    )


def _ratio(measured: Array, binomial: Array, otherwise: float) -> Array:
    """Of each method's variance to that of so many independent answers, which few wrong ones borrow from all."""
    pooled = (measured.sum() + PSEUDO * otherwise) / (binomial.sum() + PSEUDO)
    found: Array = (measured + RATIO * pooled) / (binomial + RATIO)
    return found


def _correlation(covariance: Array, groups: int) -> Array:
    """Between methods' means over so many groups, drawn to that which all pairs have on average.

    Of fifty methods and a hundred examples the directions in which methods vary least are chance: weights by them
    would be too sure. By how much is estimated (Schäfer and Strimmer, 2005).
    """
    deviations = np.sqrt(np.diag(covariance))
    found: Array = covariance / np.outer(deviations, deviations)
    if len(found) < 2:
        return found
    others = ~np.eye(len(found), dtype=bool)
    values = found[others]
    mean, errors = values.mean(), ((1 - values**2) ** 2).sum() / max(1, groups - 1)
    distance = ((values - mean) ** 2).sum()
    share = min(1.0, errors / distance) if distance else 1.0
    found[others] = share * mean + (1 - share) * values
    roots, vectors = np.linalg.eigh(found)
    found = (vectors * np.maximum(roots, 0.0)) @ vectors.T
    return found


def members_of(groups: Sequence[str] | None, examples: int) -> NDArray[np.int64]:
    """The number of each example's group, from 0."""
    if groups is None:
        return np.arange(examples)
    names = [group or number for number, group in enumerate(groups)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


def _over_examples(values: Sequence[Array], groups: Sequence[str] | None) -> tuple[Array, Array, int]:
    """The covariance of methods' means over groups, the variance by runs alone, and the number of groups.

    Whatever a run alone makes of an example varies between seeds too: it is taken out of the covariance.
    """
    number = values[0].shape[1]
    members = members_of(groups, number)
    sizes = np.bincount(members)
    several = len(sizes) / max(1, len(sizes) - 1)
    means, runs = [], []
    for each in values:
        deviations = each - each.mean(1, keepdims=True)
        if len(sizes) < number:
            deviations = np.stack([np.bincount(members, row, len(sizes)) for row in deviations])
        mean = deviations.mean(0)
        means.append(mean)
        own = ((deviations - mean) ** 2).sum() / (len(each) - 1) if len(each) > 1 else 0.0
        runs.append(own * several / number**2)
    table, alone = np.stack(means), np.array(runs)
    covariance: Array = table @ table.T * several / number**2
    whole = np.diag(covariance)
    left = np.maximum(whole - alone / [len(each) for each in values], 0.05 * whole)
    covariance[np.diag_indices_from(covariance)] = left
    return covariance, alone, len(sizes)
