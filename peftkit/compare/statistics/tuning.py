"""What the choice of settings on dev adds to the uncertainty of a method's score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from peftkit.compare.statistics.hierarchy import Choice
from peftkit.compare.statistics.observations import Array, Observations

DRAWS = 400
CHOICES = 50
"""Choices that are simulated for each draw of what the settings score."""
CURVES = np.geomspace(0.002, 4.0, 30)
"""How far settings are below what the best can reach, on average, in standard deviations of an example."""
CURVES_DEVIATION = 0.7
"""The standard deviation of its logarithm over methods, about a common one that is equally likely everywhere."""
PEAKS = np.linspace(-3.0, 6.0, 61)
"""Where the best can reach, from the highest setting on, in the errors of settings and what separates the highest."""
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

    The settings of a method are exponentially distributed below what the best can reach, as several are near the top
    of a curve and others far below; what each scores is known by its trials on dev and test, and, of the chosen one, by
    the final runs. For each draw of that, tuning is run many times over on paper: each setting's dev score is drawn
    with new seeds and dev examples, and the highest is chosen.

    Args:
        observed: the methods' means.
        tunings: by method; of those that are missing nothing was chosen.
        rng: the source of randomness.
    """
    number = len(observed.names)
    shift, gain, variance = np.zeros(number), np.ones(number), np.zeros(number)
    deviations = _seed_variances(observed)
    found: dict[int, tuple[Array, Array, Array, bool]] = {}
    for place, name in enumerate(observed.names):
        tuning = tunings.get(name)
        if tuning is None or len({trial.setting for trial in tuning.trials}) < 2:
            continue
        slope, seeds = observed.slope[place], deviations[place]
        of = _settings(tuning, slope, float(observed.raw[place]), seeds, observed.run_variance)
        if of is None:
            continue
        values, errors, selection, comparable = of
        chosen, known = tuning.chosen, 1 / errors
        if comparable:  # the final runs, from where on scores count, are of the chosen setting too
            final = observed.seeds[place] / (seeds + observed.run_variance)
            values[chosen] *= known[chosen] / (known[chosen] + final)
            known[chosen] += final
        found[place] = values, known, selection, comparable
    drawn_of = _drawn([(values, known) for values, known, *_ in found.values()], observed.unit, rng)
    for (place, (values, _, selection, comparable)), drawn in zip(found.items(), drawn_of, strict=True):
        chosen = tunings[observed.names[place]].chosen
        dev = drawn[:, None] + np.sqrt(selection) * rng.standard_normal((DRAWS, CHOICES, len(values)))
        picked = dev.argmax(2)
        expected = np.take_along_axis(drawn, picked, 1).mean(1)
        difference, own = expected - drawn[:, chosen], drawn[:, chosen]
        slope_of = float(np.clip(np.cov(difference, own)[0, 1] / max(own.var(ddof=1), 1e-30), -1.0, 0.0))
        slope_of = slope_of if comparable else 0.0
        rest = difference - slope_of * own
        shift[place], gain[place], variance[place] = rest.mean(), 1 + slope_of, rest.var(ddof=1)
    return Choice(shift, gain, variance)


def _seed_variances(observed: Observations) -> Array:
    """Of each method's runs, moderated by those of all and by what is usual; without what runs make of examples."""
    free = observed.seeds - 1
    usual = observed.typical**2 + observed.run_variance
    pooled = (observed.squares.sum() + BORROWED * usual) / (free.sum() + BORROWED)
    own = (observed.squares + BORROWED * pooled) / (free + BORROWED)
    found: Array = np.maximum(own - observed.run_variance, 0.1 * own)
    return found


def _settings(
    tuning: Tuning, slope: float, final: float, seeds: float, run: float
) -> tuple[Array, Array, Array, bool] | None:
    """Of each setting its score, the variance of that, and of its score on dev; and whether test scores are known.

    Scores are on the model's scale and counted from that of the final runs, or, where trials have dev alone, from their
    mean. A dev score without its examples is taken to vary by those as much as a test score, ``run``.
    """
    number = max(trial.setting for trial in tuning.trials) + 1
    of = np.array([trial.setting for trial in tuning.trials])
    counts = np.bincount(of, minlength=number)
    if not counts.all():
        return None
    dev = np.array([trial.dev.mean() for trial in tuning.trials])
    by_dev = _residual([trial.dev for trial in tuning.trials]) if len(tuning.trials[0].dev) > 1 else run / slope**2
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


def _drawn(methods: Sequence[tuple[Array, Array]], unit: float, rng: np.random.Generator) -> list[Array]:
    """Draws of what the settings of each method score.

    A few settings say little of how far they are apart, so what is usual of that is learned from the other methods.

    Args:
        methods: of each the values of its settings and their precisions.
        unit: the standard deviation of an example.
        rng: the source of randomness.
    """
    logs, falls = np.log(CURVES), CURVES * unit
    usual = np.exp(-0.5 * ((logs - logs[:, None]) / CURVES_DEVIATION) ** 2)
    usual /= usual.sum(1, keepdims=True)
    tables = [_peaks(values, known, falls) for values, known in methods]
    own = [np.log(usual @ likely.sum(1)) for _, likely in tables]
    total = np.sum(own, axis=0)
    found = []
    for (values, known), (peaks, likely), mine in zip(methods, tables, own, strict=True):
        others = np.exp(total - mine - (total - mine).max())
        chances = ((others @ usual)[:, None] * likely).ravel()
        place = rng.choice(len(chances), DRAWS, p=chances / chances.sum())
        fall, peak = falls[place // len(PEAKS), None], peaks.ravel()[place, None]
        # Below the peak, normal by what was measured and drawn upwards by the exponential.
        middle, deviation = values + 1 / (known * fall), 1 / np.sqrt(known)
        below = special.ndtr((peak - middle) / deviation) * rng.random((DRAWS, len(values)))
        found.append(np.minimum(peak, middle + deviation * special.ndtri(np.maximum(below, 1e-300))))
    return found


def _peaks(values: Array, known: Array, falls: Array) -> tuple[Array, Array]:
    """Where the best can reach, by each of the falls, and how likely that makes the values."""
    deviation = 1 / np.sqrt(known)
    widths = deviation.max() + falls / len(values)
    peaks = values.max() + PEAKS * widths[:, None]
    gaps, fall = peaks[..., None] - values, falls[:, None, None]
    logs = special.log_ndtr(gaps / deviation - deviation / fall) - gaps / fall + 0.5 * (deviation / fall) ** 2
    likely = logs.sum(2) - len(values) * np.log(falls)[:, None] + np.log(widths)[:, None]
    return peaks, np.exp(likely - likely.max())
