"""Pairwise tests with Holm's correction, and a compact letter display.

They test each pair on its own, without pooling over methods, and can differ from the posterior of ``fit``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from peftkit.compare.statistics.observations import Array, group_numbers
from peftkit.compare.statistics.seed_variance import (
    SeedVariance,
    detectable_differences,
    moderated_variances,
    p_value,
)

DRAWS = 10_000
DRAWS_PER_CHUNK = 500
"""Draws whose weights are in memory at once: 20 MB for 10,000 examples."""
FAMILY_WISE_ERROR = 0.05
"""The family-wise error rate: pairs with an adjusted p-value below it are separated."""
MAX_LETTERS = 9
"""The most letters in the letter display."""
MAX_GROUPS = 120
"""The most groups to keep while letters are assigned; their number can double with each separated pair."""
PROBABILITY_STEPS = 1 << 16
"""The number of probability steps from which Poisson weights are drawn."""


@dataclass(frozen=True)
class PairwiseResult:
    """The test of one pair of methods, paired by example, and by seed where both have the same seeds."""

    first: str
    second: str
    mean: float
    """The mean difference; above zero if the first is better."""
    p: float
    """The two-sided p-value."""
    p_adjusted: float
    """The p-value adjusted for all pairs (Holm, 1979)."""
    detectable: float | None
    """The difference that would be detected with a power of 80 %, given all other pairs."""


@dataclass(frozen=True)
class PairwiseTests:
    """The tests of all pairs of methods on one task."""

    differences: tuple[PairwiseResult, ...]
    letters: Mapping[str, str]
    """Methods that are not separated share a letter. Separated ones share none, up to ``MAX_LETTERS``."""
    joined: int
    """The number of separated pairs that share a letter because of that limit."""


def compare_scores(
    scores: Mapping[str, Mapping[int, Array]],
    *,
    groups: Sequence[str] | None = None,
    choices: Mapping[str, tuple[float, float]] | None = None,
    power: bool = True,
    draws: int = DRAWS,
    seed: int = 0,
) -> PairwiseTests:
    """Test all pairs of methods by their runs' scores on each test example.

    Examples are bootstrapped, the same ones for all methods (Efron, 1979; with Poisson weights as in Hanley and
    MacGibbon, 2006). Resampling few seeds would understate their variation, so the mean over seeds varies by Student's
    t instead (see ``moderated_variances``); if both methods have the same seeds, that of the paired differences. With
    one seed, only examples vary.

    Args:
        scores: Scores of the same examples by method and seed, of shape (examples,), higher is better.
        groups: The group of each example; whole groups are resampled. Empty for an example without one; None if no
            example is in a group.
        choices: The effect of choosing settings on each method, and its variance (``Posterior.choice_effects``).
        power: Whether to compute the detectable differences, which takes the most time.
        draws: The number of bootstrap draws.
        seed: Seed of the draws.

    Raises:
        ValueError: The runs have different numbers of examples.
    """
    names = list(scores)
    if len({len(values) for by_seed in scores.values() for values in by_seed.values()}) > 1:
        raise ValueError("runs of one comparison must have the same test examples")
    if not names:
        return PairwiseTests((), {}, 0)
    rng = np.random.default_rng(seed)
    means = np.stack([np.mean([*scores[name].values()], axis=0) for name in names])
    members = _group_numbers(groups, means.shape[1])
    independent = members is None
    resampled = np.concatenate([*_bootstrap_means(means, members, draws, rng)])
    run_means = {
        name: {seed: float(values.mean()) for seed, values in by_seed.items()} for name, by_seed in scores.items()
    }
    method_variances = dict(
        zip(
            names,
            moderated_variances([np.array([*by_seed.values()]) for by_seed in run_means.values()], len(names)),
            strict=True,
        )
    )
    pairs, seed_variances = [*combinations(range(len(names)), 2)], [*_pair_variances(run_means, method_variances)]
    results, errors = [], np.zeros(len(pairs))
    for number, (pair, seed_variance) in enumerate(zip(pairs, seed_variances, strict=True)):
        differences = resampled[:, pair[0]] - resampled[:, pair[1]]
        effects = [(choices or {}).get(names[i], (0.0, 0.0)) for i in pair]
        errors[number] = np.sqrt(differences.var() + effects[0][1] + effects[1][1])
        shift = effects[0][0] - effects[1][0]
        exact = independent and not seed_variance.variance and all(_is_binary(means[i]) for i in pair)
        error = float(errors[number])
        results.append(_test_pair(scores, means, error, names, pair, seed_variance, shift, exact=exact))
    adjusted = holm([result.p for result in results])
    results = [replace(result, p_adjusted=p) for result, p in zip(results, adjusted, strict=True)]
    separated = {(result.first, result.second) for result in results if result.p_adjusted < FAMILY_WISE_ERROR}
    if results and power:
        # In Holm's procedure, a pair competes with those that are not separated, itself included.
        remaining = len(results) - len(separated) + np.array([(r.first, r.second) in separated for r in results])
        thresholds = detectable_differences(errors, seed_variances, FAMILY_WISE_ERROR / remaining)
        results = [
            result
            if np.isnan(threshold) or any(_has_single_score(scores[name]) for name in (result.first, result.second))
            else replace(result, detectable=float(threshold))
            for result, threshold in zip(results, thresholds, strict=True)
        ]
    letters = compact_letters([float(np.mean([*run_means[name].values()])) for name in names], names, separated)
    joined = sum(bool({*letters[first]} & {*letters[second]}) for first, second in separated)
    return PairwiseTests(tuple(results), letters, joined)


def mcnemar(first: Array, second: Array) -> float:
    """The two-sided p-value of the exact test of McNemar (1947) that two methods are correct equally often.

    Args:
        first: 1 where the first method is correct, else 0, of shape (examples,).
        second: Likewise for the second method, of shape (examples,).
    """
    only_first, only_second = int((first > second).sum()), int((first < second).sum())
    both = only_first + only_second
    return float(stats.binomtest(only_first, both).pvalue) if both else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p-values by the step-down procedure of Holm (1979)."""
    order = np.argsort(values)
    adjusted = np.empty(len(values))
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return [float(value) for value in adjusted]


def compact_letters(means: Sequence[float], names: Sequence[str], separated: set[tuple[str, str]]) -> dict[str, str]:
    """Build a compact letter display (Piepho, 2004): two methods share a letter unless they are separated.

    With many methods, an exact display can need too many letters to read. Beyond ``MAX_LETTERS``, those groups
    are merged that join the fewest separated methods. Methods without a common letter are still separated.

    Args:
        means: The score of each method, higher is better; the best has the letter ``a``.
        names: The methods.
        separated: Pairs of methods that are separated.

    Returns:
        The letters of each method.
    """
    order = [names[i] for i in sorted(range(len(names)), key=lambda i: -means[i])]
    place = {name: number for number, name in enumerate(order)}
    pairs = sorted(tuple(sorted((place[first], place[second]))) for first, second in separated)
    differ = [0] * len(order)  # for each method, a bit mask of those separated from it
    groups = {(1 << len(order)) - 1}
    for first, second in pairs:
        differ[first] |= 1 << second
        differ[second] |= 1 << first
        both = 1 << first | 1 << second
        to_split = [group for group in groups if group & both == both]
        groups.difference_update(to_split)
        for part in (group & ~(1 << one) for group in to_split for one in (first, second)):
            if not any(part & group == part for group in groups):
                groups -= {group for group in groups if group & part == group}
                groups.add(part)
        if len(groups) > MAX_GROUPS:
            groups = _merge_groups(groups, differ, MAX_GROUPS // 2)
    kept = sorted(
        _merge_groups(groups, differ, MAX_LETTERS), key=lambda group: [n for n in range(len(order)) if group >> n & 1]
    )
    return {name: "".join(_letter(i) for i, group in enumerate(kept) if group >> place[name] & 1) for name in order}


def _merge_groups(groups: set[int], differ: Sequence[int], most: int) -> set[int]:
    """Merge groups until there are at most ``most``, each time the two that contain the fewest separated pairs."""

    def count_separated(group: int) -> int:
        return sum((mask & group).bit_count() for number, mask in enumerate(differ) if group >> number & 1)

    costs = {pair: count_separated(pair[0] | pair[1]) for pair in combinations(groups, 2)} if len(groups) > most else {}
    while len(groups) > most:
        pair = min(costs, key=lambda pair: (costs[pair], pair))
        union = pair[0] | pair[1]
        merged = {group for group in groups if group & union == group}
        groups = groups - merged
        costs = {pair: cost for pair, cost in costs.items() if not merged & {*pair}}
        costs |= {(union, group): count_separated(union | group) for group in groups}
        groups.add(union)
    return groups


def _letter(number: int) -> str:
    return chr(ord("a") + number % 26) * (1 + number // 26)


def _pair_variances(
    run_means: Mapping[str, Mapping[int, float]], method_variances: Mapping[str, SeedVariance]
) -> Iterator[SeedVariance]:
    """The variance between seeds of each pair's difference, paired by seed where both have the same seeds."""
    pairs = [*combinations(run_means, 2)]
    paired = [pair for pair in pairs if run_means[pair[0]].keys() == run_means[pair[1]].keys()]
    differences = [
        np.array([run_means[first][seed] - run_means[second][seed] for seed in run_means[first]])
        for first, second in paired
    ]
    paired_variances = dict(zip(paired, moderated_variances(differences, len(run_means)), strict=True))
    for pair in pairs:
        if pair in paired_variances:
            yield paired_variances[pair]
        else:  # the smaller degrees of freedom are conservative
            each = [method_variances[name] for name in pair if method_variances[name].variance]
            freedom = min((variance.degrees_of_freedom for variance in each), default=0.0)
            yield SeedVariance(sum(variance.variance for variance in each), freedom)


def _test_pair(
    scores: Mapping[str, Mapping[int, Array]],
    means: Array,
    error: float,
    names: Sequence[str],
    pair: tuple[int, int],
    seed_variance: SeedVariance,
    shift: float,
    *,
    exact: bool,
) -> PairwiseResult:
    """Test one pair; ``exact`` uses McNemar's test."""
    first, second = (names[i] for i in pair)
    mean = float(means[pair[0]].mean() - means[pair[1]].mean()) + shift
    if _has_single_score(scores[first]) or _has_single_score(scores[second]):
        return PairwiseResult(first, second, mean, 1.0, 1.0, None)
    p = mcnemar(means[pair[0]], means[pair[1]]) if exact else p_value(mean, error, seed_variance)
    return PairwiseResult(first, second, mean, p, 1.0, None)


def _is_binary(scores: Array) -> bool:
    """Whether the score of each example is 0 or 1."""
    return len(scores) > 1 and set(np.unique(scores)) <= {0.0, 1.0}


def _has_single_score(by_seed: Mapping[int, Array]) -> bool:
    """Whether a method has one run without scores per example, so that its variation is unknown."""
    return len(by_seed) == 1 and all(len(values) == 1 for values in by_seed.values())


def standard_error(scores: Array, groups: Sequence[str] | None) -> float:
    """The standard error of a mean over examples; 0 for a single example.

    Args:
        scores: The score of each example, of shape (examples,).
        groups: The group of each example, which vary independently, as in ``compare_scores``.
    """
    members = _group_numbers(groups, len(scores))
    deviations = scores - scores.mean()
    sums = deviations if members is None else np.bincount(members, deviations)
    if len(sums) < 2:
        return 0.0
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1))) / len(scores)


def _group_numbers(groups: Sequence[str] | None, examples: int) -> NDArray[np.int64] | None:
    """The group number of each example; None if every example is a group of its own."""
    members = group_numbers(groups, examples)
    return None if groups is None or len(np.unique(members)) == examples else members


def _bootstrap_means(
    scores: Array, members: NDArray[np.int64] | None, draws: int, rng: np.random.Generator
) -> Iterator[Array]:
    """Draw means over groups of examples, resampled with replacement; each chunk has shape (draws, rows of scores)."""
    table = np.searchsorted(
        stats.poisson.cdf(np.arange(20), 1.0), (np.arange(PROBABILITY_STEPS) + 0.5) / PROBABILITY_STEPS
    ).astype(np.float32)
    rows: list[Array] = [np.ones(scores.shape[1]), *scores]
    if members is not None:
        rows = [np.bincount(members, row).astype(np.float64) for row in rows]
    sizes, columns = rows[0].astype(np.float32), np.stack(rows[1:], axis=1).astype(np.float32)
    for start in range(0, draws, DRAWS_PER_CHUNK):
        size = (min(DRAWS_PER_CHUNK, draws - start), len(columns))
        weights = table[rng.integers(0, PROBABILITY_STEPS, size, dtype=np.uint16)]
        weights[weights.sum(1) == 0] = 1.0  # with very few groups, all weights can be zero
        yield (weights @ columns / (weights @ sizes)[:, None]).astype(np.float64)
