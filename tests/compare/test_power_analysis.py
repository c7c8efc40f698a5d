"""Plans of further runs, against the formula of the sample size and hand-computed cases."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from peftkit.compare.evidence import Evidence
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.per_example_scores import ScoredExamples
from peftkit.compare.power_analysis import MAX_RUNS, Plan, plan_runs
from peftkit.compare.statistics import Posterior
from peftkit.compare.statistics.seed_variance import moderated_variances

QUANTILES = stats.norm.ppf(0.95) + stats.norm.ppf(0.8)
"""An expected difference of this many standard errors is shown with 95 % confidence and a power of 80 %."""
SCORES = {"a": {0: 0.70, 1: 0.72}, "b": {0: 0.60, 1: 0.61, 2: 0.65}}
VARIANCE = 0.0002 + 0.0007
"""The sum of the variances between their seeds."""


def run_with(**costs: float) -> LoadedRun:
    return LoadedRun(Path("run"), {"cost": costs}, [], {}, {})


def evidence_of(**changes: Any) -> Evidence:
    """Two methods with scores per seed only; their runs cost 3 and 6 GMACs on average."""
    runs = {
        "a": {0: run_with(gmacs=2.0, train_seconds=60.0), 1: run_with(gmacs=4.0, train_seconds=120.0)},
        "b": {seed: run_with(gmacs=6.0, train_seconds=30.0) for seed in range(3)},
    }
    evidence = Evidence(
        run_group=RunGroup("t", "m", runs, {}),
        metric="accuracy",
        higher_is_better=True,
        axis="gmacs",
        budget=None,
        margin=0.01,
        example_scores=ScoredExamples({}, 0, "", None),
        tunings={},
        num_examples=0,
        scores=SCORES,
        posterior=Posterior({}, ("a", "b"), np.zeros((1, 2)), {}),
        costs={},
        costs_to_score={},
        from_longer_runs=frozenset(),
        baselines={},
    )
    return replace(evidence, **changes)


def gap_for(variance: float) -> float:
    """The gap that a difference with this variance shows."""
    return float(QUANTILES * math.sqrt(variance))


def plan(evidence: Evidence, gap: float) -> Plan | None:
    return plan_runs(evidence, "a", "b", gap, "it is better")


def seeds_for(evidence: Evidence, gap: float) -> int | None:
    result = plan(evidence, gap)
    return result and result.seeds


def test_seeds_follow_from_their_variance() -> None:
    # The difference of means over 10 seeds has a tenth of the variance; slightly more is allowed.
    assert plan(evidence_of(), gap_for(VARIANCE / 9.99)) == Plan(
        first="a",
        second="b",
        shows="it is better",
        seeds=10,
        more_runs=8 + 7,
        examples=None,
        gmacs=pytest.approx(8 * 3.0 + 7 * 6.0),
        minutes=pytest.approx((8 * 90 + 7 * 30) / 60),
    )
    assert seeds_for(evidence_of(), gap_for(VARIANCE / 10.01)) == 11


def test_at_least_one_more_seed_is_planned() -> None:
    wide = plan(evidence_of(), 10.0)
    assert wide is not None
    assert (wide.seeds, wide.more_runs, wide.gmacs) == (3, 1, pytest.approx(3.0)), "the second method has three already"


@pytest.mark.parametrize("gap", [0.0, -0.1])
def test_without_a_gap_there_is_nothing_to_show(gap: float) -> None:
    assert plan(evidence_of(), gap) is None


def test_the_variance_of_tuning_remains() -> None:
    effects = {"a": (0.5, 0.0001), "b": (0.5, 0.0002), "c": (0.5, 9.0)}
    evidence = evidence_of(posterior=Posterior({}, ("a", "b"), np.zeros((1, 2)), effects))
    assert seeds_for(evidence, gap_for(VARIANCE / 9.99 + 0.0003)) == 10
    assert plan(evidence, gap_for(0.0003 * (1 - 1e-9))) is None
    alone = evidence_of(posterior=Posterior({}, ("a", "b"), np.zeros((1, 2)), {"b": (0.0, 0.0002)}))
    assert seeds_for(alone, gap_for(VARIANCE / 9.99 + 0.0002)) == 10


def test_no_plan_needs_more_than_a_million_runs() -> None:
    assert plan(evidence_of(), gap_for(VARIANCE / (MAX_RUNS + 1))) is None
    assert seeds_for(evidence_of(), gap_for(VARIANCE / (MAX_RUNS - 0.5))) == MAX_RUNS == 1_000_000


def binomial(examples: int) -> float:
    """The variance of the difference over this many examples, with a quarter of a wrong answer added to each."""
    means = (0.71, 0.62)
    return sum((mean * (1 - mean) + 0.25 / examples) / examples for mean in means)


def test_recorded_proportions_vary_over_examples() -> None:
    known = evidence_of(num_examples=1000)
    few = plan(known, gap_for(VARIANCE / 9.99 + binomial(1000)))
    assert few is not None
    assert few.examples is not None, "examples vary more than half of what is allowed"
    many = evidence_of(num_examples=10**6)
    assert binomial(10**6) < VARIANCE / 20
    enough = plan(many, gap_for(VARIANCE / 9.99 + binomial(10**6)))
    assert enough is not None
    assert (enough.seeds, enough.examples) == (10, None)


def test_more_examples_halve_the_allowed_variance() -> None:
    evidence = evidence_of(num_examples=1000)
    allowed = 2 * VARIANCE / 9.99
    assert binomial(1000) > allowed / 2
    both = plan(evidence, gap_for(allowed))
    assert both is not None
    assert both.seeds == 10
    assert both.examples == math.ceil(1000 * binomial(1000) / (allowed / 2))
    # With more examples, the existing seeds may suffice: two of the first method.
    plain = plan(evidence_of(num_examples=100), gap_for(2 * binomial(100) * 0.99))
    assert plain is not None
    assert (plain.seeds, plain.more_runs, plain.gmacs, plain.examples) == (2, 0, 0.0, 102)
    tiny = {"a": {0: 0.70, 1: 0.70}, "b": {0: 0.62, 1: 0.62, 2: 0.62}}
    far = replace(evidence, scores=tiny)
    assert plan(far, gap_for(1e-8)) is None, "too many examples"


def test_scores_per_example_vary_as_their_differences() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 40)), rng.random((3, 40))
    groups = tuple(f"g{i // 2}" for i in range(40))
    runs = {"a": dict(enumerate(first)), "b": dict(enumerate(second))}
    differences = first.mean(0) - second.mean(0)
    for given, variance in (
        (None, differences.var(ddof=1) / 40),
        (groups, differences.reshape(20, 2).mean(1).var(ddof=1) / 20),
    ):
        evidence = evidence_of(example_scores=ScoredExamples(runs, 40, "", given), num_examples=40)
        allowed = 1.61 * variance
        result = plan(evidence, gap_for(allowed))
        assert result is not None
        assert result.examples == math.ceil(40 / 0.805)
        assert result.seeds == max(2, math.ceil(VARIANCE / (allowed / 2)))


def test_variation_over_unknown_examples_has_no_plan() -> None:
    runs = {"a": {0: np.array([0.0, 1.0])}, "b": {0: np.array([1.0, 0.0])}}
    evidence = evidence_of(example_scores=ScoredExamples(runs, 2, "", None), num_examples=0)
    assert plan(evidence, 0.01) is None


def test_variances_of_many_methods_are_moderated() -> None:
    names = ("a", "b", "c", "d", "e")
    scores = {name: {0: 0.6, 1: 0.6 + 0.02 * (place + 1)} for place, name in enumerate(names)}
    evidence = evidence_of(scores=scores, posterior=Posterior({}, names, np.zeros((1, 5)), {}))
    runs = {name: dict.fromkeys(range(2), run_with(gmacs=1.0)) for name in names}
    evidence = replace(evidence, run_group=RunGroup("t", "m", runs, {}))
    raw = (0.02**2 + 0.04**2) / 2
    moderated = moderated_variances([np.array([*scores[name].values()]) for name in names], 5)
    total = 2 * (moderated[0].variance + moderated[1].variance)
    assert total > 1.1 * raw, "the smaller variances are moderated towards the others"
    result = plan(evidence, gap_for(total / 99.5))
    assert result is not None
    assert (result.seeds, result.minutes) == (100, None)


def test_unmeasured_costs_are_not_planned() -> None:
    runs = {
        "a": {0: run_with(train_seconds=60.0), 1: run_with(train_seconds=60.0)},
        "b": {seed: run_with(gmacs=6.0) for seed in range(3)},
    }
    result = plan(evidence_of(run_group=RunGroup("t", "m", runs, {})), gap_for(VARIANCE / 9.99))
    assert result is not None
    assert (result.seeds, result.gmacs, result.minutes) == (10, None, None)
