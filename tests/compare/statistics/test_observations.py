"""The reduction of scores to means and variances, against closed forms and hand-computed cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from peftkit.compare.statistics.observations import Array, Scale, group_numbers, observe

Scores = dict[str, dict[int, Array]]


def random_scores(seeds: Sequence[int], examples: int, *, shared: float = 1.0, level: float = 5.0) -> Scores:
    """Scores of methods with these numbers of seeds, with effects of examples that all methods share."""
    rng = np.random.default_rng(0)
    hard = shared * rng.standard_normal(examples)
    scores: Scores = {}
    for number, count in enumerate(seeds):
        special = 0.5 * rng.standard_normal(examples)
        runs = [level + number + hard + special + 0.3 * rng.standard_normal(examples) for _ in range(count)]
        scores[f"m{number}"] = dict(enumerate(runs))
    return scores


def group_sums(values: Array, size: int) -> Array:
    """Sums of each run's deviations over consecutive groups of examples."""
    deviations: Array = values - values.mean(1, keepdims=True)
    return deviations.reshape(len(values), -1, size).sum(2)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("seeds", [(3, 3), (1, 2, 5), (1, 1), (4,)])
def test_variances_over_examples_are_those_of_sums_over_groups(seeds: tuple[int, ...], size: int) -> None:
    scores, examples = random_scores(seeds, 48), 48
    groups = [f"g{i // size}" for i in range(examples)] if size > 1 else None
    observed = observe(scores, share=False, groups=groups)
    sums = [group_sums(np.stack([*runs.values()]), size) for runs in scores.values()]
    several = [each for each in sums if len(each) > 1]
    # Between seeds, the interaction has as many degrees of freedom as groups less one, for each seed but one.
    free = examples / size - 1
    runs = np.mean([each.var(0, ddof=1).sum() / free for each in several]) if several else 0.0
    runs *= examples / size / examples**2
    covariance = np.atleast_2d(np.cov([each.mean(0) for each in sums])) * (examples / size) / examples**2
    whole = covariance.diagonal().mean()
    whole -= runs * np.mean([1 / len(each) for each in several]) if several else 0.0
    others = covariance[~np.eye(len(seeds), dtype=bool)]
    shared = others.mean() if len(others) else whole
    assert observed.run_example_variance == pytest.approx(runs)
    assert observed.shared_example_variance == pytest.approx(shared)
    assert observed.method_example_variance == pytest.approx(whole - shared)
    assert observed.num_groups == examples // size
    assert observed.example_deviation == pytest.approx(np.sqrt(examples * (whole + runs)))


def test_scores_that_are_no_proportions_are_modelled_as_they_are() -> None:
    scores = {"b": {2: np.array([1.0, 5.0]), 1: np.array([2.0, 6.0])}, "a": {1: np.array([-4.0, 0.0])}}
    for higher, sign in ((True, 1.0), (False, -1.0)):
        observed = observe(scores, share=False, higher_is_better=higher)
        assert observed.names == ("a", "b")
        assert observed.scale == Scale("plain", sign), "scores below zero have no logarithm"
        assert observed.mean_scores.tolist() == [-2.0, 3.5]
        assert observed.means.tolist() == [sign * -2.0, sign * 3.5]
        assert observed.num_seeds.tolist() == [1.0, 2.0]
        assert observed.sum_squares.tolist() == [0.0, 0.5]
        assert observed.scale_derivative.tolist() == [sign, sign]
        assert observed.prior_seed_deviation == pytest.approx(0.025 * observed.example_deviation)


def test_the_variance_over_examples_is_at_least_a_twentieth_of_the_measured_one() -> None:
    common, opposite = np.array([1.0, -1.0, 0.0, 0.0]), np.array([3.0, -3.0, 3.0, -3.0])
    observed = observe({"a": {0: common + opposite, 1: common - opposite}}, share=False)
    # The mean over seeds varies by 2/3 from example to example, and its variance is a quarter of that.
    assert observed.shared_example_variance == pytest.approx(0.05 * (2 / 3) / 4)
    assert observed.method_example_variance == 0.0
    assert observed.run_example_variance == pytest.approx((2 * 36 / 3) / 4)


@pytest.mark.parametrize(
    ("first", "second", "shared", "specific"),
    [
        ([1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], 0.0, 1 / 3),
        ([1.0, -1.0, 0.0], [1.0, -1.0, 0.0], 1 / 3, 0.0),
        ([1.0, -1.0, 0.0], [0.0, -1.0, 1.0], 1 / 6, 1 / 6),
        ([3.0, -3.0, 0.0], [1.0, -1.0, 0.0], 1.0, 2 / 3),
    ],
)
def test_the_shared_variance_is_the_covariance_of_methods(
    first: list[float], second: list[float], shared: float, specific: float
) -> None:
    observed = observe({"a": {0: np.array(first)}, "b": {0: np.array(second)}}, share=False)
    assert observed.shared_example_variance == pytest.approx(shared, abs=1e-15)
    assert observed.method_example_variance == pytest.approx(specific, abs=1e-15)


def test_the_shared_variance_is_at_most_the_whole_one() -> None:
    """Opposite deviations of two seeds lower the estimated variance of each method, but not the covariance."""
    common, opposite = np.array([1.0, -1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0, -1.0])
    runs = {0: common + opposite, 1: common - opposite}
    observed = observe({"a": runs, "b": runs}, share=False)
    assert observed.method_example_variance == 0.0
    # Each method's variance is 2/3 / 4, less half of the interaction's 4/3 / 4: the floor.
    assert observed.shared_example_variance == pytest.approx(0.05 / 6)


def test_losses_are_modelled_by_their_logarithm() -> None:
    scores = {
        name: {seed: np.exp(0.1 * each) for seed, each in runs.items()}
        for name, runs in random_scores((2, 3), 30).items()
    }
    plain, observed = (observe(scores, share=False, higher_is_better=higher) for higher in (True, False))
    means = plain.mean_scores
    assert observed.scale == Scale("loss", -1.0)
    assert observed.means == pytest.approx(-np.log(means))
    assert observed.scale.to_score(observed.means) == pytest.approx(means)
    assert observed.scale_derivative == pytest.approx(-1 / means)
    assert observed.sum_squares == pytest.approx(plain.sum_squares / means**2)
    factor = np.mean(means**-2.0)
    for name in ("run_example_variance", "shared_example_variance", "method_example_variance"):
        assert getattr(observed, name) == pytest.approx(factor * getattr(plain, name))
    assert observed.example_deviation == pytest.approx(np.sqrt(factor) * plain.example_deviation)
    assert observed.prior_seed_deviation == 0.01


def test_losses_at_an_earlier_checkpoint_have_the_relative_variance_of_examples() -> None:
    scores = {"a": {0: np.array([1.0, 3.0]), 1: np.array([1.0, 3.0])}}
    early = observe(scores, share=False, higher_is_better=False, means={"a": {0: 4.0, 1: 6.0}})
    assert early.mean_scores.tolist() == [5.0]
    assert early.sum_squares == pytest.approx([2 / 25])
    assert early.shared_example_variance == pytest.approx(1.0 / 4), "relative to the examples' mean of 2, not to 5"
    # Examples whose mean is not above zero have no relative variance; it is relative to the score then.
    centred = {"a": {seed: values - 2 for seed, values in scores["a"].items()}}
    early = observe(centred, share=False, higher_is_better=False, means={"a": {0: 4.0, 1: 6.0}})
    assert early.shared_example_variance == pytest.approx(1.0 / 25)


def test_a_loss_of_zero_has_no_logarithm() -> None:
    scores = {"a": {0: np.array([0.0, 0.0])}, "b": {0: np.array([1.0, 2.0])}}
    assert observe(scores, share=False, higher_is_better=False).scale == Scale("plain", -1.0)


def test_without_examples_the_unit_follows_from_seeds() -> None:
    scores = {
        name: {seed: np.array([value]) for seed, value in enumerate(values)}
        for name, values in {"a": (1.0, 3.0), "b": (5.0, 5.0, 8.0)}.items()
    }
    observed = observe(scores, share=False)
    deviation = np.sqrt((2.0 + 6.0) / 3)
    assert observed.sum_squares == pytest.approx([2.0, 6.0])
    assert observed.example_deviation == pytest.approx(deviation / 0.025)
    assert observed.prior_seed_deviation == pytest.approx(deviation)
    assert (observed.run_example_variance, observed.shared_example_variance) == (0.0, 0.0)
    assert (observed.method_example_variance, observed.num_groups) == (0.0, 0)
    equal = observe({"a": {0: np.array([4.0]), 1: np.array([4.0])}, "b": {0: np.array([1.0])}}, share=False)
    single = observe({"a": {0: np.array([4.0])}}, share=False)
    assert (equal.example_deviation, single.example_deviation) == (1e-9, 1e-9), "nothing varies"


def test_two_examples_have_a_variance() -> None:
    observed = observe({"a": {0: np.array([0.0, 2.0])}}, share=False)
    assert observed.shared_example_variance == pytest.approx(1.0)
    assert observed.num_groups == 2
    assert observed.example_deviation == pytest.approx(np.sqrt(2))


def test_one_group_of_all_examples_has_no_variance() -> None:
    observed = observe({"a": {0: np.array([0.0, 2.0])}}, share=False, groups=["g", "g"])
    assert (observed.shared_example_variance, observed.num_groups) == (0.0, 1)


def share_of(values: float | Sequence[float]) -> dict[int, Array]:
    return {seed: np.array([value]) for seed, value in enumerate(np.atleast_1d(values))}


@pytest.mark.parametrize(("higher", "sign"), [(True, 1.0), (False, -1.0)])
def test_recorded_proportions_have_binomial_variances(higher: bool, sign: float) -> None:
    observed = observe({"a": share_of([0.8, 0.9]), "b": share_of(0.0)}, share=True, higher_is_better=higher, rows=100)
    inside = np.array([(85 + 3 / 8) / (100 + 3 / 4), (3 / 8) / (100 + 3 / 4)])
    assert observed.scale == Scale("share", sign)
    assert observed.means == pytest.approx(sign * np.arcsin(np.sqrt(inside)))
    assert observed.mean_scores == pytest.approx([0.85, 0.0])
    slopes = sign / (2 * np.sqrt(inside * (1 - inside)))
    assert observed.scale_derivative == pytest.approx(slopes)
    assert observed.sum_squares == pytest.approx([slopes[0] ** 2 * 0.005, 0.0])
    assert observed.method_example_variance == pytest.approx(1 / 400)
    assert (observed.run_example_variance, observed.shared_example_variance) == (0.0, 0.0)
    assert (observed.example_deviation, observed.num_groups) == (0.5, 100)
    level = np.median(inside)
    assert observed.prior_seed_deviation == pytest.approx(0.01 / (2 * np.sqrt(level * (1 - level))))


@pytest.mark.parametrize(("score", "inside", "level"), [(0.0, 0.005, 0.03), (0.3, 0.3, 0.3), (1.0, 0.995, 0.97)])
def test_proportions_of_unknown_numbers_of_examples_keep_off_the_bounds(
    score: float, inside: float, level: float
) -> None:
    observed = observe({"a": share_of([score, score])}, share=True)
    assert observed.means == pytest.approx([np.arcsin(np.sqrt(inside))])
    assert observed.mean_scores == pytest.approx([score])
    assert observed.prior_seed_deviation == pytest.approx(0.01 / (2 * np.sqrt(level * (1 - level))))
    assert (observed.method_example_variance, observed.shared_example_variance) == (0.0, 0.0)
    assert observed.num_groups == 0


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize(("methods", "pseudo"), [(1, 2.0), (2, 2.0), (4, 1.7)])
def test_perfect_proportions_vary_by_two_wrong_answers(methods: int, pseudo: float, size: int) -> None:
    scores = {f"m{i}": {seed: np.ones(50) for seed in range(3)} for i in range(methods)}
    groups = [f"g{i // size}" for i in range(50)] if size > 1 else None
    observed = observe(scores, share=True, groups=groups)
    effective = 50 / size
    inside = (effective + 3 / 8) / (effective + 3 / 4)
    assert observed.means == pytest.approx([np.arcsin(np.sqrt(inside))] * methods)
    assert observed.shared_example_variance == pytest.approx(1.4 / pseudo * size / 200)
    assert observed.method_example_variance == pytest.approx((pseudo - 1.4) / pseudo * size / 200)
    assert (observed.run_example_variance, observed.num_groups) == (0.0, 50 // size)


def test_measured_variances_of_proportions_are_relative_to_binomial_ones() -> None:
    scores = {
        "a": {0: np.array([1.0, 1.0, 0.0, 0.0, 1.0, 1.0]), 1: np.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])},
        "b": {0: np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1.0]), 1: np.array([1.0, 0.0, 0.0, 0.0, 1.0, 1.0])},
    }
    groups = ["x", "x", "y", "y", "", ""]
    measured = observe(scores, share=False, groups=groups)  # in units of the score
    observed = observe(scores, share=True, groups=groups)
    whole = measured.shared_example_variance + measured.method_example_variance
    binomial = 6 * (2 / 3 * 1 / 3 + 1 / 4) / 2 + 2.0
    measured_whole = 36 * whole + 2.0 * 6 / 4
    ratio, runs = measured_whole / binomial, 36 * measured.run_example_variance / binomial
    correlation = (36 * measured.shared_example_variance + 1.4 * 6 / 4) / measured_whole
    assert 0 < correlation < 1
    assert observed.num_groups == 4
    assert observed.run_example_variance == pytest.approx(runs / 24)
    assert observed.shared_example_variance == pytest.approx(correlation * ratio / 24)
    assert observed.method_example_variance == pytest.approx((1 - correlation) * ratio / 24)
    effective = 6 / (ratio + runs / 2)
    inside = (effective * np.array([2 / 3, 1 / 2]) + 3 / 8) / (effective + 3 / 4)
    assert observed.means == pytest.approx(np.arcsin(np.sqrt(inside)))


def test_proportions_at_an_earlier_checkpoint_borrow_the_variance_of_examples() -> None:
    scores = {"a": {0: np.array([1.0, 1.0, 0.0, 0.0]), 1: np.array([1.0, 0.0, 1.0, 0.0])}}
    late = observe(scores, share=True)
    early = observe(scores, share=True, means={"a": {0: 0.2, 1: 0.3}})
    assert early.mean_scores.tolist() == [0.25]
    assert early.sum_squares == pytest.approx(early.scale_derivative**2 * 0.005)
    for name in ("run_example_variance", "shared_example_variance", "method_example_variance"):
        assert getattr(early, name) == getattr(late, name)


def test_scores_stay_within_their_bounds() -> None:
    share = Scale("share", 1.0)
    assert share.to_score(np.array([-0.1, 0.0, np.pi / 4, np.pi / 2, 2.0])) == pytest.approx([0, 0, 0.5, 1, 1])
    assert Scale("share", -1.0).to_score(np.array([-np.pi / 6, 0.1])) == pytest.approx([0.25, 0.0])
    assert Scale("loss", -1.0).to_score(np.array([-np.log(3.0)])) == pytest.approx([3.0])
    assert Scale("plain", -1.0).to_score(np.array([-7.0])).tolist() == [7.0]


def test_examples_without_a_group_are_groups_of_their_own() -> None:
    assert group_numbers(None, 3).tolist() == [0, 1, 2]
    assert group_numbers(["b", "", "a", "b", ""], 5).tolist() == [0, 1, 2, 0, 3]
