"""Pairwise tests with Holm's correction, and letters of methods that they cannot tell apart.

They ask another question than the posterior of ``fit``, of each pair alone and without pooling, and can differ from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from peftkit.compare.statistics.seeds import Array, Spread, chance, detectable, spreads

DRAWS = 10_000
CHUNK = 500  # draws whose weights are held at once: of 10,000 examples 20 MB
ERROR = 0.05
"""The chance, of all pairs together, from below which on two are apart."""
MOST_LETTERS = 9
"""Letters of groups at the most."""
MOST_GROUPS = 120
"""Groups that are kept on the way there: their number can double with each pair that is apart."""
FINE = 1 << 16
"""The steps of probability in which weights are drawn."""


@dataclass(frozen=True)
class Difference:
    """How much better one method is than another, paired by example, and by seed where both have the same."""

    first: str
    second: str
    mean: float
    p: float
    """Of no difference, two-sided."""
    p_adjusted: float
    """After Holm (1979), for all pairs."""
    detectable: float | None
    """The difference that would have been found four times in five, with all other pairs as they are."""


@dataclass(frozen=True)
class PairwiseTests:
    """What the tests say of several methods on one task."""

    differences: tuple[Difference, ...]
    letters: Mapping[str, str]
    """Methods that are not separated have a letter in common, and others none unless these would be too many."""
    joined: int
    """Pairs that are apart and have a letter in common all the same."""


def judge(
    scores: Mapping[str, Mapping[int, Array]],
    *,
    groups: Sequence[str] | None = None,
    choices: Mapping[str, tuple[float, float]] | None = None,
    power: bool = True,
    draws: int = DRAWS,
    seed: int = 0,
) -> PairwiseTests:
    """Judges methods by what each of their runs scored on each test example.

    A bootstrap of two levels. Examples are drawn anew, the same ones for all (Efron, 1979, with Poisson weights as
    Hanley and MacGibbon, 2006, have it). Of seeds there are few, and to draw among few understates how they vary: the
    mean over seeds varies by Student's t instead (see ``spreads``); of two methods with the same seeds that of their
    differences, seed by seed. With one seed only the examples vary.

    Args:
        scores: for each method and seed the scores of the examples, higher is better, all of the same examples.
        groups: the group of each example: whole groups are drawn. An empty one is a group of its own; None where all
            examples are.
        choices: for each method by how much its tuning might have chosen better settings, and the variance of that
            (``Posterior.choices``); None where nothing was chosen.
        power: whether to compute which differences would be found, which takes longest.
        draws: how often.
        seed: makes the draws repeatable.

    Raises:
        ValueError: the runs are not of the same number of examples.
    """
    names = list(scores)
    if len({len(values) for of in scores.values() for values in of.values()}) > 1:
        raise ValueError("runs of one comparison must be of the same test examples")
    if not names:
        return PairwiseTests((), {}, 0)
    rng = np.random.default_rng(seed)
    means = np.stack([np.mean([*scores[name].values()], axis=0) for name in names])
    members = _members(groups, means.shape[1])
    independent = members is None
    drawn = np.concatenate([*_resampled(means, members, draws, rng)])
    own = {name: {number: float(values.mean()) for number, values in of.items()} for name, of in scores.items()}
    alone = dict(zip(names, spreads([np.array([*of.values()]) for of in own.values()], len(names)), strict=True))
    pairs, varying = [*combinations(range(len(names)), 2)], [*_of_pairs(own, alone)]
    found, errors = [], np.zeros(len(pairs))
    for number, (pair, spread) in enumerate(zip(pairs, varying, strict=True)):
        examples = drawn[:, pair[0]] - drawn[:, pair[1]]
        chosen = [(choices or {}).get(names[i], (0.0, 0.0)) for i in pair]
        errors[number] = np.sqrt(examples.var() + chosen[0][1] + chosen[1][1])
        shift = chosen[0][0] - chosen[1][0]
        exact = independent and not spread.variance and all(_of_ones(means[i]) for i in pair)
        found.append(_difference(scores, means, float(errors[number]), names, pair, spread, shift, exact=exact))
    adjusted = holm([d.p for d in found])
    found = [replace(d, p_adjusted=p) for d, p in zip(found, adjusted, strict=True)]
    apart = {(d.first, d.second) for d in found if d.p_adjusted < ERROR}
    if found and power:
        # Of the pairs, those that are apart are out of Holm's way for the others, and not for themselves.
        remaining = len(found) - len(apart) + np.array([(d.first, d.second) in apart for d in found])
        shown = detectable(errors, varying, ERROR / remaining)
        found = [
            d
            if np.isnan(x) or any(_unknown(scores[name]) for name in (d.first, d.second))
            else replace(d, detectable=float(x))
            for d, x in zip(found, shown, strict=True)
        ]
    shared = letters([float(np.mean([*own[name].values()])) for name in names], names, apart)
    return PairwiseTests(
        tuple(found),
        shared,
        sum(bool({*shared[first]} & {*shared[second]}) for first, second in apart),
    )


def mcnemar(first: Array, second: Array) -> float:
    """The exact test of McNemar (1947), two-sided, of whether two are right equally often on the same examples."""
    only_first, only_second = int((first > second).sum()), int((first < second).sum())
    both = only_first + only_second
    return float(stats.binomtest(only_first, both).pvalue) if both else 1.0


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
    """Letters such that two methods share one unless they are ``apart`` (Piepho, 2004), the best from ``a`` on.

    Of many methods, some of which vary more than others, exact letters can be more than anybody reads: of more than
    ``MOST_LETTERS`` those are made one that so join fewest methods that are apart. Sharing none then still says apart.
    """
    order = [names[i] for i in sorted(range(len(names)), key=lambda i: -means[i])]
    place = {name: number for number, name in enumerate(order)}
    pairs = sorted(tuple(sorted((place[first], place[second]))) for first, second in apart)
    differ = [0] * len(order)  # of each, the others that are apart from it, as bits
    groups = {(1 << len(order)) - 1}
    for first, second in pairs:
        differ[first] |= 1 << second
        differ[second] |= 1 << first
        both = 1 << first | 1 << second
        halved = [group for group in groups if group & both == both]
        groups.difference_update(halved)
        for part in (group & ~(1 << one) for group in halved for one in (first, second)):
            if not any(part & group == part for group in groups):
                groups -= {group for group in groups if group & part == group}
                groups.add(part)
        if len(groups) > MOST_GROUPS:
            groups = _joined(groups, differ, MOST_GROUPS // 2)
    kept = sorted(
        _joined(groups, differ, MOST_LETTERS), key=lambda group: [n for n in range(len(order)) if group >> n & 1]
    )
    return {name: "".join(_letter(i) for i, group in enumerate(kept) if group >> place[name] & 1) for name in order}


def _joined(groups: set[int], differ: Sequence[int], most: int) -> set[int]:
    """So many groups at the most: those are made one that so hold fewest pairs that are apart."""

    def apart(group: int) -> int:
        return sum((mask & group).bit_count() for number, mask in enumerate(differ) if group >> number & 1)

    costs = {pair: apart(pair[0] | pair[1]) for pair in combinations(groups, 2)} if len(groups) > most else {}
    while len(groups) > most:
        pair = min(costs, key=lambda pair: (costs[pair], pair))
        union = pair[0] | pair[1]
        gone = {group for group in groups if group & union == group}
        groups = groups - gone
        costs = {pair: cost for pair, cost in costs.items() if not gone & {*pair}}
        costs |= {(union, group): apart(union | group) for group in groups}
        groups.add(union)
    return groups


def _letter(number: int) -> str:
    return chr(ord("a") + number % 26) * (1 + number // 26)


def _of_pairs(own: Mapping[str, Mapping[int, float]], alone: Mapping[str, Spread]) -> Iterator[Spread]:
    """How the differences of all pairs vary with the seed, seed by seed where both have the same ones."""
    pairs = [*combinations(own, 2)]
    paired = [pair for pair in pairs if own[pair[0]].keys() == own[pair[1]].keys()]
    apart = [np.array([own[first][seed] - own[second][seed] for seed in own[first]]) for first, second in paired]
    found = dict(zip(paired, spreads(apart, len(own)), strict=True))
    for pair in pairs:
        if pair in found:
            yield found[pair]
        else:  # with the fewer degrees of freedom, which is on the safe side
            each = [alone[name] for name in pair if alone[name].variance]
            freedom = min((spread.freedom for spread in each), default=0.0)
            yield Spread(sum(spread.variance for spread in each), freedom)


def _difference(
    scores: Mapping[str, Mapping[int, Array]],
    means: Array,
    error: float,
    names: Sequence[str],
    pair: tuple[int, int],
    of_seeds: Spread,
    shift: float,
    *,
    exact: bool,
) -> Difference:
    """The difference of a pair; ``exact`` is whether McNemar's test holds for it."""
    first, second = (names[i] for i in pair)
    mean = float(means[pair[0]].mean() - means[pair[1]].mean()) + shift
    if _unknown(scores[first]) or _unknown(scores[second]):
        return Difference(first, second, mean, 1.0, 1.0, None)
    p = mcnemar(means[pair[0]], means[pair[1]]) if exact else chance(mean, error, of_seeds)
    return Difference(first, second, mean, p, 1.0, None)


def _of_ones(scores: Array) -> bool:
    """Whether each example is right or wrong, and nothing between."""
    return len(scores) > 1 and set(np.unique(scores)) <= {0.0, 1.0}


def _unknown(of: Mapping[int, Array]) -> bool:
    """Whether a method has a single number."""
    return len(of) == 1 and all(len(values) == 1 for values in of.values())


def standard_error(scores: Array, groups: Sequence[str] | None) -> float:
    """The standard error of a mean over examples, whose groups vary independently; 0 for a single example.

    Args:
        scores: of each example.
        groups: as for ``judge``.
    """
    members = _members(groups, len(scores))
    deviations = scores - scores.mean()
    sums = deviations if members is None else np.bincount(members, deviations)
    if len(sums) < 2:
        return 0.0
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1))) / len(scores)


def _members(groups: Sequence[str] | None, examples: int) -> NDArray[np.int64] | None:
    """The number of each example's group, from 0; None where every example is alone."""
    if groups is None:
        return None
    names = [group or number for number, group in enumerate(groups)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64) if len(numbers) < examples else None


def _resampled(
    scores: Array, members: NDArray[np.int64] | None, draws: int, rng: np.random.Generator
) -> Iterator[Array]:
    """Means of groups of examples drawn with replacement: draws × rows of ``scores``, the same groups for all rows."""
    table = np.searchsorted(stats.poisson.cdf(np.arange(20), 1.0), (np.arange(FINE) + 0.5) / FINE).astype(np.float32)
    rows: list[Array] = [np.ones(scores.shape[1]), *scores]
    if members is not None:
        rows = [np.bincount(members, row).astype(np.float64) for row in rows]
    sizes, columns = rows[0].astype(np.float32), np.stack(rows[1:], axis=1).astype(np.float32)
    for start in range(0, draws, CHUNK):
        size = (min(CHUNK, draws - start), len(columns))
        weights = table[rng.integers(0, FINE, size, dtype=np.uint16)]
        weights[weights.sum(1) == 0] = 1.0  # no group at all was drawn, of a handful
        yield (weights @ columns / (weights @ sizes)[:, None]).astype(np.float64)
