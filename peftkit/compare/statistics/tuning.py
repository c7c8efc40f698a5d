"""What the choice of settings on dev adds to the uncertainty of a method's score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peftkit.compare.statistics.hierarchy import Choice
from peftkit.compare.statistics.observations import TYPICAL_SEEDS, Array, Observations

DRAWS = 400
CHOICES = 50
"""Choices that are simulated for each draw of what the settings score."""
CURVES = np.geomspace(0.002, 4.0, 40)
"""Standard deviations between the settings of a method, equally likely on the log scale, in those of an example."""
BORROWED = 3.0
"""Degrees of freedom that the usual standard deviation between seeds counts for beside a method's own."""


@dataclass(frozen=True)
class Trial:
    """One run of the tuning."""

    setting: int
    """Which of the method's settings it had."""
    dev: Array
    """The score of each dev example, or of all of them together."""
    test: Array | None = None
    """Likewise on test; None where that was not kept."""


@dataclass(frozen=True)
class Tuning:
    """The trials of a method, and which setting was chosen."""

    trials: Sequence[Trial]
    chosen: int


def choice(observed: Observations, tunings: Mapping[str, Tuning], rng: np.random.Generator) -> Choice:
    """The difference between the expected score over choices and that of the chosen settings.

    The settings of a method vary normally about their mean; what each scores is known by its trials on dev and test,
    and, of the chosen one, by the final runs. For each draw of that, tuning is run many times over on paper: each
    setting's dev score is drawn with new seeds and dev examples, and the highest is chosen.

    Args:
        observed: the methods' means.
        tunings: by method; of those that are missing nothing was chosen.
        rng: the source of randomness.
    """
    number = len(observed.names)
    shift, gain, variance = np.zeros(number), np.ones(number), np.zeros(number)
    deviations = _seed_variances(observed)
    for place, name in enumerate(observed.names):
        tuning = tunings.get(name)
        if tuning is None or len({trial.setting for trial in tuning.trials}) < 2:
            continue
        slope, seeds = observed.slope[place], deviations[place]
        found = _settings(tuning, slope, float(observed.raw[place]), seeds)
        if found is None:
            continue
        values, errors, selection, comparable = found
        chosen, known = tuning.chosen, 1 / errors
        if comparable:  # the final runs, from where on scores count, are of the chosen setting too
            final = observed.seeds[place] / (seeds + observed.run_variance)
            values[chosen] *= known[chosen] / (known[chosen] + final)
            known[chosen] += final
        spread = _spread(values, 1 / known, observed.unit, rng)[:, None]
        precision = known + 1 / spread**2
        middle = _middle(values, 1 / known, spread, rng)
        drawn = (values * known + middle / spread**2) / precision
        drawn = drawn + rng.standard_normal(drawn.shape) / np.sqrt(precision)
        dev = drawn[:, None] + np.sqrt(selection) * rng.standard_normal((DRAWS, CHOICES, len(values)))
        picked = dev.argmax(2)
        expected = np.take_along_axis(drawn, picked, 1).mean(1)
        difference, own = expected - drawn[:, chosen], drawn[:, chosen]
        slope_of = float(np.clip(np.cov(difference, own)[0, 1] / max(own.var(ddof=1), 1e-30), -1.0, 0.0))
        slope_of = slope_of if comparable else 0.0
        rest = difference - slope_of * own
        shift[place], gain[place], variance[place] = (
            rest.mean(),
            1 + slope_of,
            rest.var(ddof=1),
        )
    return Choice(shift, gain, variance)


def _seed_variances(observed: Observations) -> Array:
    """Of each method's runs, moderated by those of all and by what is usual; without what runs make of examples."""
    free = observed.seeds - 1
    usual = (TYPICAL_SEEDS * observed.unit) ** 2 + observed.run_variance
    pooled = (observed.squares.sum() + BORROWED * usual) / (free.sum() + BORROWED)
    own = (observed.squares + BORROWED * pooled) / (free + BORROWED)
    found: Array = np.maximum(own - observed.run_variance, 0.1 * own)
    return found


def _settings(tuning: Tuning, slope: float, final: float, seeds: float) -> tuple[Array, Array, Array, bool] | None:
    """Of each setting its score, the variance of that, and of its score on dev; and whether test scores are known.

    Scores are on the model's scale and counted from that of the final runs, or, where trials have dev alone, from their
    mean.
    """
    number = max(trial.setting for trial in tuning.trials) + 1
    of = np.array([trial.setting for trial in tuning.trials])
    counts = np.bincount(of, minlength=number)
    if not counts.all():
        return None
    dev = np.array([trial.dev.mean() for trial in tuning.trials])
    by_dev = _residual([trial.dev for trial in tuning.trials])
    known = [trial.test for trial in tuning.trials if trial.test is not None]
    comparable = len(known) == len(dev)
    scores, error = dev - dev.mean(), by_dev
    if comparable:
        by_test, test = _residual(known), np.array([each.mean() for each in known])
        share = by_dev / (by_dev + by_test) if by_dev + by_test else 0.5
        scores = test.mean() - final + (1 - share) * scores + share * (test - test.mean())
        error = (1 - share) ** 2 * by_dev + share**2 * by_test
    values = slope * np.bincount(of, scores, number) / counts
    return values, (seeds + slope**2 * error) / counts, (seeds + slope**2 * by_dev) / counts, comparable


def _residual(scores: Sequence[Array]) -> float:
    """The variance of a mean over examples, without what examples are to all trials: that cancels among them."""
    if len(scores[0]) < 2:
        return 0.0
    table = np.stack(scores)
    left = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    return float((left**2).sum() / ((len(table) - 1) * (table.shape[1] - 1)) / table.shape[1])


def _spread(values: Array, errors: Array, unit: float, rng: np.random.Generator) -> Array:
    """Draws of the standard deviation between settings, their mean integrated out."""
    grid = CURVES * unit
    inverse = 1 / (errors + grid[:, None] ** 2)
    middle = (values * inverse).sum(1) / inverse.sum(1)
    logs = 0.5 * (np.log(inverse).sum(1) - np.log(inverse.sum(1)))
    logs -= 0.5 * ((values - middle[:, None]) ** 2 * inverse).sum(1)
    chances = np.exp(logs - logs.max())
    return rng.choice(grid, DRAWS, p=chances / chances.sum())


def _middle(values: Array, errors: Array, spread: Array, rng: np.random.Generator) -> Array:
    """Draws of the mean over settings."""
    inverse = 1 / (errors + spread**2)
    total = inverse.sum(1, keepdims=True)
    found: Array = (values * inverse).sum(1, keepdims=True) / total + rng.standard_normal((DRAWS, 1)) / np.sqrt(total)
    return found
