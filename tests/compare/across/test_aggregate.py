from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.compare.across import (
    BY_RANK,
    BY_SCORE,
    PROFILE_THRESHOLDS,
    TaskPosterior,
    aggregate_tasks,
    compare_across_tasks,
    interquartile_mean,
    normalize_scores,
)
from peftkit.compare.output.across_pages import notes
from peftkit.compare.posterior_inputs import fit_posterior
from peftkit.compare.statistics import fit
from tests.compare.across.conftest import BEST, MEANS, numbers, part, read, runs
from tests.compare.conftest import HALF_EFFORT, Plant


def test_normalized_scores_are_0_for_the_constant_answer_and_1_for_the_best() -> None:
    draws = np.array([[0.5, 0.9], [0.7, 0.7]])
    assert normalize_scores(draws, 0.4) == pytest.approx(np.array([[0.25, 1.25], [0.75, 0.75]]))


@pytest.mark.parametrize(
    ("values", "mean"), [([1, 9], 5.0), ([0, 6, 9], 5.5), ([9, 1, 3, 5], 4.0), ([0, 1, 2, 3, 100], 2.0)]
)
def test_interquartile_mean_is_the_mean_of_the_middle_half(values: list[float], mean: float) -> None:
    assert interquartile_mean(np.array(values, float)[:, None]) == pytest.approx(mean)


def test_each_number_is_a_mean_over_draws() -> None:
    first, second = [[0.6, 0.7, 0.5]] * 10, [[0.9, 0.7, 0.5]] * 10
    parts = [
        TaskPosterior(task, "m", "acc", ("a", "b", "c"), np.array(d), 0.5) for task, d in (("x", first), ("y", second))
    ]
    comparison = aggregate_tasks(parts, ("a", "b", "c"))
    a, b, c = (next(line for line in comparison.lines if line.method == name) for name in "abc")
    assert [each.score and each.score.mean for each in (a, b, c)] == pytest.approx([0.75, 0.75, 0.0])
    assert [each.rank.mean for each in (a, b, c)] == [1.5, 1.5, 3.0]
    assert [each.best for each in (a, b, c)] == [0.5, 0.5, 0.0], "equal methods share a draw"
    assert b.improvement
    assert c.improvement
    assert (b.improvement.mean, c.improvement.mean) == (0.5, 1.0)
    assert [a.profile[PROFILE_THRESHOLDS.index(at)].mean for at in (0.5, 0.55, 1.0, 1.1)] == [1.0, 0.5, 0.5, 0.0]
    assert not comparison.settled


def test_tasks_fitted_with_one_seed_are_independent(plant: Plant) -> None:
    one, *others = read(runs(plant, {"full": 0.70, "lora": 0.75}, ("rte",)))
    assert not others
    many = [replace(one, task=f"task {i}") for i in range(16)]
    width = [x.difference.high - x.difference.low for x in (compare_across_tasks(many[:4]), compare_across_tasks(many))]
    assert width[0] / width[1] == pytest.approx(2.0, rel=0.15), "four times as many tasks halve the width"


def test_scores_are_means_of_the_tasks_posteriors(plant: Plant) -> None:
    groups = read(runs(plant, BEST))
    posteriors = [fit_posterior(section, "accuracy") for section in groups]
    expected = np.mean(
        [(each.estimates["vera"].score - 0.5) / (each.estimates["lora"].score - 0.5) for each in posteriors]
    )
    [line] = [line for line in compare_across_tasks(groups).lines if line.method == "vera"]
    assert line.score
    assert line.score.mean == pytest.approx(expected)


# The best method overall.


@settings(max_examples=25, deadline=None)
@given(others=MEANS, tasks=st.integers(2, 6), lead=st.floats(0.1, 0.25), constant=st.sampled_from([0.5, None]))
def test_a_method_far_ahead_on_every_task_is_named(
    others: list[float], tasks: int, lead: float, constant: float | None
) -> None:
    levels = [*others, max(others) + lead]
    best = "abcdefgh"[len(others)]
    parts = [part(f"t{i}", levels, constant=constant, seed=i) for i in range(tasks)]
    comparison = aggregate_tasks(parts, parts[0].methods)
    assert comparison.settled
    assert comparison.lines[0].method == best
    assert comparison.decided_by == (BY_RANK if constant is None else BY_SCORE)
    assert (
        f"Overall: {best} (P > 99 %), by mean {comparison.decided_by} on {tasks} tasks with m: t0, t1"
        in comparison.verdict
    )


@settings(max_examples=25, deadline=None)
@given(level=st.floats(0.6, 0.9), methods=st.integers(2, 6), tasks=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_none_of_equal_methods_is_named(level: float, methods: int, tasks: int, seed: int) -> None:
    parts = [part(f"t{i}", [level] * methods, seed=seed + i) for i in range(tasks)]
    comparison = aggregate_tasks(parts, parts[0].methods)
    assert not comparison.settled
    assert "Overall: not settled: " in comparison.verdict
    assert sum(line.best for line in comparison.lines) == pytest.approx(1.0)
    assert comparison.difference.low < 0 < comparison.difference.high


@settings(max_examples=25, deadline=None)
@given(levels=st.lists(MEANS.map(lambda m: (m * 3)[:3]), min_size=2, max_size=5), data=st.data())
def test_order_and_names_of_methods_do_not_matter(levels: list[list[float]], data: st.DataObject) -> None:
    parts = [part(f"t{i}", level, spread=0.03, seed=i) for i, level in enumerate(levels)]
    renamed = data.draw(st.permutations(["x", "lora", "1"]))
    columns = data.draw(st.permutations(range(3)))
    changed = [
        replace(each, methods=tuple(renamed[i] for i in columns), draws=each.draws[:, columns])
        for each in data.draw(st.permutations(parts))
    ]
    one, other = numbers(aggregate_tasks(parts, "abc")), numbers(aggregate_tasks(changed, renamed))
    for name, new in zip("abc", renamed, strict=True):
        assert [x for x in one[name] if x is not None] == pytest.approx([x for x in other[new] if x is not None])


@settings(max_examples=25, deadline=None)
@given(levels=MEANS, factor=st.floats(0.1, 100), shift=st.floats(-10, 10))
def test_normalised_scores_do_not_depend_on_the_unit_of_a_metric(
    levels: list[float], factor: float, shift: float
) -> None:
    parts = [part(f"t{i}", levels, seed=i) for i in range(3)]
    changed = [
        replace(each, draws=factor * each.draws + shift, constant_score=factor * 0.5 + shift)
        if each is parts[0]
        else each
        for each in parts
    ]
    one, other = (aggregate_tasks(each, parts[0].methods) for each in (parts, changed))
    for line, same in zip(one.lines, other.lines, strict=True):
        assert line.score
        assert same.score
        assert line.method == same.method
        assert [line.score.mean, line.score.low, line.rank.mean, line.best] == pytest.approx(
            [same.score.mean, same.score.low, same.rank.mean, same.best], abs=1e-6
        )


def draw_parts(rng: np.random.Generator, spread: float) -> tuple[list[TaskPosterior], str]:
    """The posteriors of four simulated tasks, and the method that is truly best."""
    overall = rng.normal(0, spread, 4)
    parts, truth = [], []
    for task in range(4):
        expected = rng.uniform(0.65, 0.9) + overall + rng.normal(0, spread / 2, 4)
        constant = float(expected.max()) - 0.2
        right = {
            name: {seed: (rng.random(500) < level + rng.normal(0, 0.01)).astype(float) for seed in range(3)}
            for name, level in zip("abcd", expected, strict=True)
        }
        known = fit(right, share=True, effort=HALF_EFFORT)
        parts.append(TaskPosterior(f"t{task}", "m", "accuracy", known.names, known.draws, constant))
        truth.append((expected - constant) / 0.2)
    return parts, "abcd"[int(np.mean(truth, 0).argmax())]


@pytest.mark.slow
def test_verdicts_are_calibrated() -> None:
    rng = np.random.default_rng(5)
    verdicts = [(aggregate_tasks(parts, "abcd"), best) for parts, best in (draw_parts(rng, 0.03) for _ in range(40))]
    right = [comparison.lines[0].method == best for comparison, best in verdicts if comparison.settled]
    assert len(right) > 10, "most scenarios are decided"
    assert sum(right) >= 0.95 * len(right)
    stated, true = (
        sum(comparison.lines[0].best for comparison, _ in verdicts),
        sum(f.lines[0].method == b for f, b in verdicts),
    )
    assert stated == pytest.approx(true, abs=0.12 * len(verdicts))


@pytest.mark.slow
def test_equal_methods_are_rarely_settled() -> None:
    rng = np.random.default_rng(6)
    assert sum(aggregate_tasks(draw_parts(rng, 0.0)[0], "abcd").settled for _ in range(25)) <= 2


def test_lower_is_better_metrics_are_normalized() -> None:
    parts = [replace(part(task, [-0.4, -0.8], constant=-1.0), sign=-1.0) for task in "xy"]
    comparison = aggregate_tasks(parts, "ab")
    [b] = [line for line in comparison.lines if line.method == "b"]
    assert b.score
    assert b.score.mean == pytest.approx(1 / 3, abs=0.01)
    assert comparison.places[0].constant == 1.0
    assert comparison.places[0].top == pytest.approx(0.4, abs=0.01)


def test_a_narrow_scale_is_noted() -> None:
    comparison = aggregate_tasks([part("x", [0.52, 0.50]), part("y", [0.9, 0.7])], "ab")
    assert [note.partition(" from ")[0] for note in notes(comparison) if note.startswith("narrow")] == [
        "narrow scale: x with m:"
    ]
