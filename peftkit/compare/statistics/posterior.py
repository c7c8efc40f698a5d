"""Fits the posterior from which all reported scores, intervals and probabilities are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from peftkit.compare.statistics.hierarchy import SamplingEffort, sample_posterior
from peftkit.compare.statistics.observations import Array, Observations, observe
from peftkit.compare.statistics.tuning_choice import Tuning, estimate_choice_effect

CONFIDENCE_LEVEL = 0.95
"""The level of intervals."""
INTERVAL_QUANTILES = ((1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2)
"""The quantiles of an interval's ends."""


@dataclass(frozen=True)
class MethodEstimate:
    """The estimated score of one method."""

    score: float
    """The posterior mean of the expected score; with one seed, the run's score."""
    low: float | None
    """Lower end of the 95 % interval; None if the variation of the score is unknown."""
    high: float | None
    best: float | None
    """P(best): the probability that it has the highest expected score; None with one seed."""
    seeds: int


@dataclass(frozen=True)
class PairDifference:
    """The estimated difference between two methods; above zero if the first is better."""

    first: str
    second: str
    mean: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    better: float
    """The probability that the first method is better."""


@dataclass(frozen=True)
class Posterior:
    """Estimates of all methods, and joint draws of the expected scores of methods with several seeds."""

    estimates: Mapping[str, MethodEstimate]
    names: tuple[str, ...]
    """Methods with two or more seeds."""
    draws: Array
    """Expected scores in the metric's unit, of shape (draws, methods)."""
    choice_effects: Mapping[str, tuple[float, float]]
    """The effect of choosing settings on each method: the expected score over repeated tunings less that of the chosen
    settings (above zero: better), and its variance."""
    higher_is_better: bool = True

    def difference(self, first: str, second: str) -> PairDifference:
        """Estimate the difference between two methods.

        Args:
            first: A method.
            second: The method to compare it with. The difference is above zero if ``first`` is better.
        """
        [difference] = self._differences([(first, second)])
        return difference

    def differences(self) -> tuple[PairDifference, ...]:
        """Estimate the differences of all pairs of methods with several seeds."""
        return tuple(self._differences([*combinations(self.names, 2)]))

    def _differences(self, pairs: Sequence[tuple[str, str]]) -> list[PairDifference]:
        if not pairs:
            return []
        places = {name: place for place, name in enumerate(self.names)}
        first, second = ([places[pair[side]] for pair in pairs] for side in (0, 1))
        gaps = self._sign * (self.draws[:, first] - self.draws[:, second])
        numbers = [gaps.mean(0), *np.quantile(gaps, INTERVAL_QUANTILES, axis=0), (gaps > 0).mean(0)]
        return [
            PairDifference(*pair, *(float(number[place]) for number in numbers)) for place, pair in enumerate(pairs)
        ]

    def equivalent(self, first: str, second: str, margin: float) -> float:
        """The probability that two methods differ by less than a margin.

        Args:
            first: A method.
            second: Another method.
            margin: The margin, as a score.
        """
        return float((np.abs(self._gap(first, second)) < margin).mean())

    def not_inferior(self, first: str, second: str, margin: float) -> float:
        """The probability that a method is less than a margin worse than another.

        Args:
            first: The method.
            second: The other method.
            margin: The margin, as a score.
        """
        return float((self._gap(first, second) > -margin).mean())

    def within_margin_of_best(self, margin: float) -> Mapping[str, float]:
        """The probability of each method to be at most a margin worse than the best."""
        if not self.names:
            return {}
        better = self._sign * self.draws
        close = better >= better.max(1, keepdims=True) - margin
        return dict(zip(self.names, close.mean(0).tolist(), strict=True))

    @property
    def _sign(self) -> float:
        return 1.0 if self.higher_is_better else -1.0

    def _gap(self, first: str, second: str) -> Array:
        """Draws of the difference between two methods, of shape (draws,)."""
        one, other = (self.draws[:, self.names.index(name)] for name in (first, second))
        gap: Array = self._sign * (one - other)
        return gap


def fit(
    scores: Mapping[str, Mapping[int, Array]],
    *,
    share: bool,
    higher_is_better: bool = True,
    groups: Sequence[str] | None = None,
    means: Mapping[str, Mapping[int, float]] | None = None,
    rows: int = 0,
    tunings: Mapping[str, Tuning] | None = None,
    effort: SamplingEffort | None = None,
    seed: int = 0,
) -> Posterior:
    """Fit the hierarchical model to the scores of runs.

    A method's score is the expected score of its whole protocol on new test groups: tuned once, then trained with new
    seeds. A method with one seed has the interval of that run over its test examples, and is not ranked.

    Args:
        scores: Scores of the same test examples by method and seed, of shape (examples,); of shape (1,) without scores
            per example.
        share: Whether scores are proportions in [0, 1], which intervals then respect.
        higher_is_better: Whether higher scores are better.
        groups: The group of each example; examples of a group are correlated. Empty for an example without one.
        means: Scores of the runs, if they differ from the means over examples.
        rows: The number of test examples, if there are no scores per example.
        tunings: Tuning trials and the chosen setting, by method.
        effort: The number of draws.
        seed: Seed of the draws.

    Raises:
        ValueError: The runs have different numbers of examples.
    """
    if len({len(values) for by_seed in scores.values() for values in by_seed.values()}) > 1:
        raise ValueError("runs of one comparison must have the same test examples")

    def observe_runs(scores: Mapping[str, Mapping[int, Array]]) -> Observations:
        return observe(scores, share=share, higher_is_better=higher_is_better, groups=groups, means=means, rows=rows)

    several = {name: by_seed for name, by_seed in scores.items() if len(by_seed) > 1}
    estimates: dict[str, MethodEstimate] = {}
    for name, by_seed in scores.items():
        if name not in several:
            estimates[name] = _estimate_single_run(observe_runs({name: by_seed}))
    if not several:
        return Posterior(estimates, (), np.zeros((0, 0)), {}, higher_is_better)
    rng = np.random.default_rng(seed)
    observed = observe_runs(several)
    tuned = estimate_choice_effect(observed, tunings or {}, rng)
    values = sample_posterior(observed, tuned, rng, effort or SamplingEffort())
    best_counts = np.bincount(values.argmax(1), minlength=len(several))
    draws = observed.scale.to_score(values)
    for column, name in enumerate(observed.names):
        low, high = _interval(draws[:, column])
        mean, best = float(draws[:, column].mean()), float(best_counts[column] / len(values))
        estimates[name] = MethodEstimate(mean, low, high, best, len(several[name]))
    slopes = np.abs(observed.scale_derivative)
    effects = zip((tuned.shift / slopes).tolist(), (tuned.variance / slopes**2).tolist(), strict=True)
    choices = dict(zip(observed.names, effects, strict=True))
    return Posterior(estimates, observed.names, draws, choices, higher_is_better)


def _estimate_single_run(observed: Observations) -> MethodEstimate:
    """The score of a single run, with its interval over test examples."""
    score, deviation = (
        float(observed.mean_scores[0]),
        float(np.sqrt(observed.shared_example_variance + observed.method_example_variance)),
    )
    if not deviation:
        return MethodEstimate(score, None, None, None, 1)
    ends = observed.means[0] + stats.norm.ppf(INTERVAL_QUANTILES[1]) * deviation * np.array([-1.0, 1.0])
    low, high = sorted(observed.scale.to_score(ends).tolist())
    return MethodEstimate(score, min(low, score), max(high, score), None, 1)


def _interval(draws: Array) -> tuple[float, float]:
    low, high = np.quantile(draws, INTERVAL_QUANTILES)
    return float(low), float(high)
