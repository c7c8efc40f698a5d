"""The one posterior behind every score, interval and probability that is reported of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from peftkit.compare.statistics.hierarchy import Effort, sample
from peftkit.compare.statistics.observations import Array, observe
from peftkit.compare.statistics.tuning import Tuning, choice

LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


@dataclass(frozen=True)
class MethodEstimate:
    """What is known of one method's score."""

    score: float
    """The posterior mean of the expected score; of a single run, its score."""
    low: float | None
    """Of the 95 % interval; None where nothing is known of how the score varies."""
    high: float | None
    best: float | None
    """The probability of the highest expected score; None for a method with one seed."""
    seeds: int


@dataclass(frozen=True)
class PairDifference:
    """By how much one method is better than another."""

    first: str
    second: str
    mean: float
    low: float
    high: float
    better: float
    """The probability that the first is better."""


@dataclass(frozen=True)
class Posterior:
    """What is known of methods: ``estimates`` of all, and joint draws of those with several seeds."""

    estimates: Mapping[str, MethodEstimate]
    names: tuple[str, ...]
    """Methods with two seeds or more."""
    draws: Array
    """Of their expected scores, draws × methods, in the metric's own unit."""
    choices: Mapping[str, tuple[float, float]]
    """By how much better each method's score is expected to be over what its tuning might have chosen than with what it
    chose, and the variance of that."""
    higher_is_better: bool = True

    def difference(self, first: str, second: str) -> PairDifference:
        """By how much the first method is better than the second (above zero: better, losses too)."""
        [found] = self._differences([(first, second)])
        return found

    def differences(self) -> tuple[PairDifference, ...]:
        """Of all pairs."""
        return tuple(self._differences([*combinations(self.names, 2)]))

    def _differences(self, pairs: Sequence[tuple[str, str]]) -> list[PairDifference]:
        if not pairs:
            return []
        places = {name: place for place, name in enumerate(self.names)}
        first, second = ([places[pair[side]] for pair in pairs] for side in (0, 1))
        gaps = self._sign * (self.draws[:, first] - self.draws[:, second])
        numbers = [gaps.mean(0), *np.quantile(gaps, TAILS, axis=0), (gaps > 0).mean(0)]
        return [
            PairDifference(*pair, *(float(number[place]) for number in numbers)) for place, pair in enumerate(pairs)
        ]

    def equivalent(self, first: str, second: str, margin: float) -> float:
        """The probability that two methods differ by less than the margin."""
        return float((np.abs(self._gap(first, second)) < margin).mean())

    def not_inferior(self, first: str, second: str, margin: float) -> float:
        """The probability that the first method is not worse than the second by the margin or more."""
        return float((self._gap(first, second) > -margin).mean())

    def within_margin_of_best(self, margin: float) -> Mapping[str, float]:
        """The probability of each method that it is no more than the margin worse than the best."""
        if not self.names:
            return {}
        better = self._sign * self.draws
        close = better >= better.max(1, keepdims=True) - margin
        return dict(zip(self.names, close.mean(0).tolist(), strict=True))

    @property
    def _sign(self) -> float:
        return 1.0 if self.higher_is_better else -1.0

    def _gap(self, first: str, second: str) -> Array:
        one, other = (self.draws[:, self.names.index(name)] for name in (first, second))
        found: Array = self._sign * (one - other)
        return found


def fit(
    scores: Mapping[str, Mapping[int, Array]],
    *,
    share: bool,
    higher_is_better: bool = True,
    groups: Sequence[str] | None = None,
    means: Mapping[str, Mapping[int, float]] | None = None,
    rows: int = 0,
    tunings: Mapping[str, Tuning] | None = None,
    effort: Effort | None = None,
    seed: int = 0,
) -> Posterior:
    """Fits the model to what runs scored.

    The score of a method is what its whole protocol is expected to score on new test groups: tuned once, trained on
    new seeds. Methods with one seed have an interval of that run, by its test examples; nothing is said of how they
    rank.

    Args:
        scores: by method and seed the score of each test example, the same ones for all; or a single score each.
        share: whether scores are shares in [0, 1], which no interval leaves.
        higher_is_better: whether more of the metric is better.
        groups: the group of each example, whose examples vary together; an empty one is of its own.
        means: the runs' scores, where they are others than the means of their examples.
        rows: the number of test examples, where there are single scores alone.
        tunings: by method, what tuning tried, and chose.
        effort: how long to sample.
        seed: makes the draws repeatable.

    Raises:
        ValueError: the runs are not of the same number of examples.
    """
    if len({len(values) for of in scores.values() for values in of.values()}) > 1:
        raise ValueError("runs of one comparison must be of the same test examples")
    options: dict[str, Any] = {
        "share": share,
        "higher_is_better": higher_is_better,
        "groups": groups,
        "means": means,
        "rows": rows,
    }
    estimates: dict[str, MethodEstimate] = {}
    several = {name: of for name, of in scores.items() if len(of) > 1}
    for name, of in scores.items():
        if name not in several:
            estimates[name] = _of_one_run(name, of, options)
    if not several:
        return Posterior(estimates, (), np.zeros((0, 0)), {}, higher_is_better)
    rng = np.random.default_rng(seed)
    observed = observe(several, **options)
    tuned = choice(observed, tunings or {}, rng)
    values = sample(observed, tuned, rng, effort or Effort())
    winners = np.bincount(values.argmax(1), minlength=len(several)) / len(values)
    draws = observed.scale.score(values)
    for column, name in enumerate(observed.names):
        low, high = _interval(draws[:, column])
        mean, best = float(draws[:, column].mean()), float(winners[column])
        estimates[name] = MethodEstimate(mean, low, high, best, len(several[name]))
    steep = np.abs(observed.slope)
    numbers = zip((tuned.shift / steep).tolist(), (tuned.variance / steep**2).tolist(), strict=True)
    choices = dict(zip(observed.names, numbers, strict=True))
    return Posterior(estimates, observed.names, draws, choices, higher_is_better)


def _of_one_run(name: str, of: Mapping[int, Array], options: Mapping[str, Any]) -> MethodEstimate:
    """The score of a run with the interval that its test examples give it."""
    observed = observe({name: of}, **options)
    score, deviation = float(observed.raw[0]), float(np.sqrt(observed.common + observed.interaction))
    if not deviation:
        return MethodEstimate(score, None, None, None, 1)
    ends = observed.means[0] + stats.norm.ppf(TAILS[1]) * deviation * np.array([-1.0, 1.0])
    low, high = sorted(observed.scale.score(ends).tolist())
    return MethodEstimate(score, min(low, score), max(high, score), None, 1)


def _interval(draws: Array) -> tuple[float, float]:
    low, high = np.quantile(draws, TAILS)
    return float(low), float(high)
