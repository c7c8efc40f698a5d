"""Compares the posterior of a simulation with its truth."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from calibration.scenarios import Scenario, simulate
from peftkit.compare.statistics import Posterior, fit
from peftkit.compare.statistics.hierarchy import SamplingEffort
from peftkit.compare.statistics.posterior import INTERVAL_QUANTILES
from peftkit.compare.statistics.significance_tests import compare_scores

EFFORT = SamplingEffort(chains=16, warm_up_states=15, kept_states=25, draws_per_state=6)
"""Fewer draws than ``compare`` takes, since Monte Carlo errors cancel over thousands of scenarios."""


def assess(scenario: Scenario, rng: np.random.Generator, effort: SamplingEffort | None = EFFORT) -> dict[str, Any]:
    """Simulate a scenario, fit the posterior, and compare it with the truth.

    Args:
        scenario: the levels of the factors.
        rng: the random number generator.
        effort: the number of posterior draws; None for that of ``compare``.

    Returns:
        The factors and what was measured, as JSON values.
    """
    simulation = simulate(scenario, rng)
    started = time.perf_counter()
    posterior = fit(
        simulation.scores,
        share=not scenario.loss,
        higher_is_better=not scenario.loss,
        groups=simulation.groups,
        tunings=simulation.tunings,
        effort=effort,
    )
    took = time.perf_counter() - started
    sign = -1.0 if scenario.loss else 1.0
    estimates, truth = posterior.estimates, simulation.truth
    best = max(truth, key=lambda name: sign * truth[name])
    covered = [estimates[name].low <= value <= estimates[name].high for name, value in truth.items()]
    top = max(estimates, key=lambda name: sign * estimates[name].score)
    holm = None
    if scenario.spread == 0:
        signed = {name: {seed: sign * v for seed, v in runs.items()} for name, runs in simulation.scores.items()}
        verdict = compare_scores(
            signed, groups=simulation.groups, choices=posterior.choice_effects, power=False, draws=300
        )
        holm = any(each.p_adjusted < 0.05 for each in verdict.differences)
    return {
        **asdict(scenario),
        "coverage": float(np.mean(covered)),
        "pairs": _pair_coverage(posterior, truth),
        "inside": all(scenario.loss or 0 <= e.low <= e.high <= 1 for e in estimates.values()),
        "width": min(e.high - e.low for e in estimates.values()),
        "best": [[float(e.best), name == best] for name, e in estimates.items()],
        "claim": float(max(e.best for e in estimates.values())),
        "claim_right": max(estimates, key=lambda name: estimates[name].best) == best,
        "bias_of_top": sign * (estimates[top].score - truth[top]),
        "holm": holm,
        "seconds": took,
    }


def _pair_coverage(posterior: Posterior, truth: Mapping[str, float]) -> float:
    """The share of pairs whose interval contains the true difference, from ranks among the draws."""
    first, second = np.triu_indices(len(posterior.names), 1)
    actual = np.array([truth[name] for name in posterior.names])
    below = posterior.draws[:, first] - posterior.draws[:, second] < actual[first] - actual[second]
    return float(((below.mean(0) >= INTERVAL_QUANTILES[0]) & (below.mean(0) <= INTERVAL_QUANTILES[1])).mean())
