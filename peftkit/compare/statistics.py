"""How sure a comparison is: intervals, differences that are paired, and which methods cannot be told apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

DRAWS = 10_000
CHUNK = 500  # draws whose weights are held at once: of 10,000 examples 20 MB
LEVEL = 0.95
FINE = 1 << 16
"""The steps of probability in which weights are drawn."""


@dataclass(frozen=True)
class Estimate:
    """A mean score with its interval."""

    mean: float
    low: float | None
    """None where nothing is known of how it varies: one seed, and no single examples."""
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Difference:
    """How much better one method is than another, paired by example, and by seed where both have the same."""

    first: str
    second: str
    mean: float
    low: float | None
    high: float | None
    p: float
    """Of no difference, two-sided."""
    p_adjusted: float
    """After Holm (1979), for all pairs."""
    detectable: float | None
    """The difference that would have been found four times in five."""


@dataclass(frozen=True)
class Verdict:
    """What can be said of several methods on one task."""

    estimates: Mapping[str, Estimate]
    differences: tuple[Difference, ...]
    letters: Mapping[str, str]
    """Methods with a letter in common cannot be told apart."""
    best: Mapping[str, float | None]
    """The probability of each that it is the best; None where nothing is known of how one of them varies."""


def judge(scores: Mapping[str, Mapping[int, Array]], *, draws: int = DRAWS, seed: int = 0) -> Verdict:
    """Judges methods by what each of their runs scored on each test example.

    Examples are drawn anew, the same ones for all (the bootstrap of Efron, 1979, with Poisson weights as Hanley and
    MacGibbon, 2006, have it). Of seeds there are few, and to draw among few understates how they vary: the mean over
    seeds varies by Student's t of their standard deviation instead. With one seed only the examples vary.

    Args:
        scores: for each method and seed the scores of the examples, higher is better, all of the same examples.
        draws: how often.
        seed: makes the draws repeatable.

    Raises:
        ValueError: the runs are not of the same number of examples.
    """
    names = list(scores)
    if len({len(values) for of in scores.values() for values in of.values()}) > 1:
        raise ValueError("runs of one comparison must be of the same test examples")
    rng = np.random.default_rng(seed)
    means = np.stack([np.mean([*scores[name].values()], axis=0) for name in names])
    drawn = np.concatenate([*_resampled(means, draws, rng)])
    estimates = {}
    for column, name in enumerate(names):
        own = np.array([values.mean() for values in scores[name].values()])
        spread = drawn[:, column] + of_seeds(own, draws, rng)
        low: float | None
        high: float | None
        if _unknown(scores[name]):
            low, high = None, None
        elif len(own) == 1 and set(np.unique(means[column])) <= {0.0, 1.0}:
            low, high = wilson(int(means[column].sum()), means.shape[1])
        else:
            low, high = _interval(spread)
        estimates[name] = Estimate(float(own.mean()), low, high, len(own))
    differences = [_difference(scores, drawn, names, pair, rng) for pair in combinations(range(len(names)), 2)]
    adjusted = holm([d.p for d in differences])
    told = tuple(Difference(**{**vars(d), "p_adjusted": p}) for d, p in zip(differences, adjusted, strict=True))
    varied = drawn + np.stack(
        [of_seeds(np.array([v.mean() for v in scores[name].values()]), draws, rng) for name in names], axis=1
    )
    blind = any(map(_unknown, scores.values()))
    winners = np.bincount(varied.argmax(1), minlength=len(names)) / draws
    return Verdict(
        estimates,
        told,
        letters([estimates[n].mean for n in names], names, {(d.first, d.second) for d in told if d.p_adjusted < 0.05}),
        dict.fromkeys(names) if blind else dict(zip(names, winners.tolist(), strict=True)),
    )


def wilson(right: int, number: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of Wilson (1927) for a share of ``right`` among ``number``."""
    found = stats.binomtest(right, number).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def holm(values: Sequence[float]) -> list[float]:
    """The p-values after the step-down correction of Holm (1979), in the order in which they came."""
    order = np.argsort(values)
    adjusted = np.empty(len(values))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return [float(value) for value in adjusted]


def letters(means: Sequence[float], names: Sequence[str], apart: set[tuple[str, str]]) -> dict[str, str]:
    """Letters such that two methods share one unless they are ``apart`` (Piepho, 2004), the best from ``a`` on."""
    order = [names[i] for i in sorted(range(len(names)), key=lambda i: -means[i])]
    groups = [set(order)]
    for pair in combinations(order, 2):
        if pair not in apart and pair[::-1] not in apart:
            continue
        split: list[set[str]] = []
        for group in groups:
            split += [group - {pair[0]}, group - {pair[1]}] if set(pair) <= group else [group]
        groups = [g for i, g in enumerate(split) if not any(g < o or (g == o and j < i) for j, o in enumerate(split))]
    groups.sort(key=lambda group: [order.index(name) for name in sorted(group, key=order.index)])
    return {name: "".join(_letter(i) for i, group in enumerate(groups) if name in group) for name in order}


def _letter(number: int) -> str:
    return chr(ord("a") + number % 26) * (1 + number // 26)


def _difference(
    scores: Mapping[str, Mapping[int, Array]],
    drawn: Array,
    names: Sequence[str],
    pair: tuple[int, int],
    rng: np.random.Generator,
) -> Difference:
    first, second = (scores[names[i]] for i in pair)
    own, others = ({seed: values.mean() for seed, values in of.items()} for of in (first, second))
    mean = float(np.mean([*own.values()]) - np.mean([*others.values()]))
    examples = drawn[:, pair[0]] - drawn[:, pair[1]]
    if own.keys() == others.keys():
        seeds = of_seeds(np.array([own[seed] - others[seed] for seed in own]), len(drawn), rng)
    else:
        seeds = of_seeds(np.array([*own.values()]), len(drawn), rng)
        seeds = seeds - of_seeds(np.array([*others.values()]), len(drawn), rng)
    if _unknown(first) or _unknown(second):
        return Difference(names[pair[0]], names[pair[1]], mean, None, None, 1.0, 1.0, None)
    spread = examples + seeds
    low, high = _interval(spread)
    beyond = min((spread <= 0).sum(), (spread >= 0).sum())
    p = min(1.0, 2 * (beyond + 1) / (len(spread) + 1))
    deviation = (high - low) / (2 * stats.norm.ppf((1 + LEVEL) / 2))
    detectable = float((stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(0.8)) * deviation)
    return Difference(names[pair[0]], names[pair[1]], mean, low, high, float(p), 1.0, detectable)


def _unknown(of: Mapping[int, Array]) -> bool:
    """Whether a method has a single number."""
    return len(of) == 1 and all(len(values) == 1 for values in of.values())


def _resampled(scores: Array, draws: int, rng: np.random.Generator) -> Iterator[Array]:
    """Means of examples drawn with replacement: draws × rows of ``scores``, the same examples for all rows."""
    table = np.searchsorted(stats.poisson.cdf(np.arange(20), 1.0), (np.arange(FINE) + 0.5) / FINE).astype(np.float32)
    columns = scores.T.astype(np.float32)
    for start in range(0, draws, CHUNK):
        size = (min(CHUNK, draws - start), len(columns))
        weights = table[rng.integers(0, FINE, size, dtype=np.uint16)]
        weights[weights.sum(1) == 0] = 1.0  # no example at all was drawn, of a handful
        yield (weights @ columns / weights.sum(1, keepdims=True)).astype(np.float64)


def of_seeds(values: Array, draws: int, rng: np.random.Generator) -> Array:
    """How the mean over other seeds would differ from that over these; nothing is known of one."""
    if len(values) < 2:
        return np.zeros(draws)
    drawn: Array = rng.standard_t(len(values) - 1, draws) * values.std(ddof=1) / np.sqrt(len(values))
    return drawn


def _interval(spread: Array) -> tuple[float, float]:
    low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
