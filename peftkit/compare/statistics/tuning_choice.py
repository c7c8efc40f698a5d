"""Estimates how choosing settings on dev affects a method's score and its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from peftkit.compare.statistics.hierarchy import ChoiceEffect
from peftkit.compare.statistics.observations import Array, Observations

DRAWS = 400
"""Draws of the settings' scores."""
SIMULATED_TUNINGS = 50
"""Simulated tunings for each of these draws."""
MEAN_DISTANCES = np.geomspace(0.002, 4.0, 30)
"""The grid of mean distances of settings below the best attainable score, in standard deviations of an example."""
MEAN_DISTANCE_DEVIATION = 0.7
"""The standard deviation of the logarithm of that distance over methods; its mean has a flat prior."""
PEAKS = np.linspace(-3.0, 6.0, 61)
"""The grid of the best attainable score: its distance above the highest setting, relative to the settings' error."""
PRIOR_DEGREES_OF_FREEDOM = 3.0
"""Degrees of freedom of the prior variance between seeds."""


@dataclass(frozen=True)
class TrialScores:
    """The scores of one trial of a method's tuning."""

    setting: int
    """The index of its setting."""
    dev: Array
    """The score of each dev example, of shape (examples,), or the mean score, of shape (1,)."""
    test: Array | None = None
    """Likewise on test; None if not stored."""


@dataclass(frozen=True)
class Tuning:
    """The trials of a method, and the setting that was chosen."""

    trials: Sequence[TrialScores]
    chosen: int


def estimate_choice_effect(
    observed: Observations, tunings: Mapping[str, Tuning], rng: np.random.Generator
) -> ChoiceEffect:
    """Estimate the expected score over repeated tunings, less that of the chosen settings.

    The settings of a method have exponentially distributed distances below the best attainable score: several are near
    the top, others far below. Their scores are estimated from the trials on dev and test, and for the chosen setting
    from the final runs too. Tuning is simulated many times for each draw of these scores: dev scores are drawn with
    new seeds and examples, and the setting with the highest is chosen.

    Args:
        observed: The methods' means.
        tunings: Tuning trials by method. Methods without any are unaffected.
        rng: The random generator.
    """
    number = len(observed.names)
    shift, gain, variance = np.zeros(number), np.ones(number), np.zeros(number)
    seed_variances = _seed_variances(observed)
    tuned: dict[int, tuple[Array, Array, Array, bool]] = {}
    for place, name in enumerate(observed.names):
        tuning = tunings.get(name)
        if tuning is None or len({trial.setting for trial in tuning.trials}) < 2:
            continue
        slope, seed_variance = observed.scale_derivative[place], seed_variances[place]
        settings = _observe_settings(
            tuning, slope, float(observed.mean_scores[place]), seed_variance, observed.run_example_variance
        )
        if settings is None:
            continue
        values, errors, selection, comparable = settings
        chosen, precisions = tuning.chosen, 1 / errors
        if comparable:  # scores are relative to the final runs, which have the chosen setting
            final = observed.num_seeds[place] / (seed_variance + observed.run_example_variance)
            values[chosen] *= precisions[chosen] / (precisions[chosen] + final)
            precisions[chosen] += final
        tuned[place] = values, precisions, selection, comparable
    draws = _draw_settings(
        [(values, precisions) for values, precisions, *_ in tuned.values()], observed.example_deviation, rng
    )
    for (place, (values, _, selection, comparable)), drawn in zip(tuned.items(), draws, strict=True):
        chosen = tunings[observed.names[place]].chosen
        dev = drawn[:, None] + np.sqrt(selection) * rng.standard_normal((DRAWS, SIMULATED_TUNINGS, len(values)))
        picked = dev.argmax(2)
        expected = np.take_along_axis(drawn, picked, 1).mean(1)
        difference, chosen_scores = expected - drawn[:, chosen], drawn[:, chosen]
        covariance = np.cov(difference, chosen_scores)[0, 1]
        coefficient = float(np.clip(covariance / max(chosen_scores.var(ddof=1), 1e-30), -1.0, 0.0))
        coefficient = coefficient if comparable else 0.0
        rest = difference - coefficient * chosen_scores
        shift[place], gain[place], variance[place] = rest.mean(), 1 + coefficient, rest.var(ddof=1)
    return ChoiceEffect(shift, gain, variance)


def _seed_variances(observed: Observations) -> Array:
    """The variance between seeds of each method, moderated, without ``run_example_variance``."""
    free = observed.num_seeds - 1
    prior = observed.prior_seed_deviation**2 + observed.run_example_variance
    pooled = (observed.sum_squares.sum() + PRIOR_DEGREES_OF_FREEDOM * prior) / (free.sum() + PRIOR_DEGREES_OF_FREEDOM)
    moderated = (observed.sum_squares + PRIOR_DEGREES_OF_FREEDOM * pooled) / (free + PRIOR_DEGREES_OF_FREEDOM)
    variances: Array = np.maximum(moderated - observed.run_example_variance, 0.1 * moderated)
    return variances


def _observe_settings(
    tuning: Tuning, slope: float, final: float, seed_variance: float, run_variance: float
) -> tuple[Array, Array, Array, bool] | None:
    """Estimate the score of each setting from its trials.

    Scores are on the model's scale, relative to the final runs' score, or to the trials' mean if trials have only dev
    scores. A dev score without scores per example is assumed to vary over examples as a test score does.

    Args:
        tuning: The trials.
        slope: The derivative of the model's scale with respect to the score.
        final: The final runs' score.
        seed_variance: The variance between seeds, on the model's scale.
        run_variance: The variance of a run's mean over examples, on the model's scale.

    Returns:
        The score of each setting, the variance of its error and the variance of its dev score, each of shape
        (settings,), and whether the scores are relative to the final runs; None if a setting has no trial.
    """
    number = max(trial.setting for trial in tuning.trials) + 1
    settings = np.array([trial.setting for trial in tuning.trials])
    counts = np.bincount(settings, minlength=number)
    if not counts.all():
        return None
    dev = np.array([trial.dev.mean() for trial in tuning.trials])
    per_example = len(tuning.trials[0].dev) > 1
    by_dev = _residual_variance([trial.dev for trial in tuning.trials]) if per_example else run_variance / slope**2
    known = [trial.test for trial in tuning.trials if trial.test is not None]
    comparable = len(known) == len(dev)
    scores, error = dev - dev.mean(), by_dev
    if comparable:
        by_test, test = _residual_variance(known), np.array([each.mean() for each in known])
        share = by_dev / (by_dev + by_test) if by_dev + by_test else 0.5
        scores = test.mean() - final + (1 - share) * scores + share * (test - test.mean())
        error = (1 - share) ** 2 * by_dev + share**2 * by_test
    values = slope * np.bincount(settings, scores, number) / counts
    errors, selection = (seed_variance + slope**2 * each for each in (error, by_dev))
    return values, errors / counts, selection / counts, comparable


def _residual_variance(scores: Sequence[Array]) -> float:
    """The variance of a trial's mean over examples, without the examples' effects that all trials share."""
    if len(scores[0]) < 2:
        return 0.0
    table = np.stack(scores)
    residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    return float((residuals**2).sum() / ((len(table) - 1) * (table.shape[1] - 1)) / table.shape[1])


def _draw_settings(methods: Sequence[tuple[Array, Array]], unit: float, rng: np.random.Generator) -> list[Array]:
    """Draw the scores of each method's settings.

    The distances between a method's few settings are uncertain, so their prior is estimated from the other methods.

    Args:
        methods: For each method, the scores of its settings and their precisions, both of shape (settings,).
        unit: The standard deviation of an example.
        rng: The random generator.

    Returns:
        For each method, draws of shape (draws, settings).
    """
    logs, distances = np.log(MEAN_DISTANCES), MEAN_DISTANCES * unit
    transition = np.exp(-0.5 * ((logs - logs[:, None]) / MEAN_DISTANCE_DEVIATION) ** 2)
    transition /= transition.sum(1, keepdims=True)
    grids = [_peak_likelihoods(values, precisions, distances) for values, precisions in methods]
    log_likelihoods = [np.log(transition @ likelihoods.sum(1)) for _, likelihoods in grids]
    total = np.sum(log_likelihoods, axis=0)
    draws = []
    for (values, precisions), (peaks, likelihoods), log_likelihood in zip(methods, grids, log_likelihoods, strict=True):
        others = np.exp(total - log_likelihood - (total - log_likelihood).max())
        weights = ((others @ transition)[:, None] * likelihoods).ravel()
        place = rng.choice(len(weights), DRAWS, p=weights / weights.sum())
        distance, peak = distances[place // len(PEAKS), None], peaks.ravel()[place, None]
        # Below the peak, the normal likelihood times the exponential prior is a normal distribution, shifted upwards.
        middle, deviation = values + 1 / (precisions * distance), 1 / np.sqrt(precisions)
        below = special.ndtr((peak - middle) / deviation) * rng.random((DRAWS, len(values)))
        draws.append(np.minimum(peak, middle + deviation * special.ndtri(np.maximum(below, 1e-300))))
    return draws


def _peak_likelihoods(values: Array, precisions: Array, distances: Array) -> tuple[Array, Array]:
    """The grid of best attainable scores and their likelihoods, both of shape (distances, peaks)."""
    deviation = 1 / np.sqrt(precisions)
    scales = deviation.max() + distances / len(values)
    peaks = values.max() + PEAKS * scales[:, None]
    gaps, distance = peaks[..., None] - values, distances[:, None, None]
    logs = (
        special.log_ndtr(gaps / deviation - deviation / distance) - gaps / distance + 0.5 * (deviation / distance) ** 2
    )
    log_likelihoods = logs.sum(2) - len(values) * np.log(distances)[:, None] + np.log(scales)[:, None]
    return peaks, np.exp(log_likelihoods - log_likelihoods.max())
