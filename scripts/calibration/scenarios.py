"""Scenarios, and simulated scores of methods whose expected scores are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from peftkit.compare.statistics import TrialScores, Tuning

PI: dict[str, tuple[Any, ...]] = {
    "methods": (2, 5, 10, 50),
    "seeds": (2, 3, 5, 10),
    "examples": (100, 500, 2000),
    "spread": (0.5, 2.0, 5.0),
    "variances": ("equal", "log-normal"),
    "tails": ("normal", "t5"),
    "curve": (False, True),
    "level": (0.4, 0.6, 0.8, 0.9, 0.97, "loss"),
}
"""The factors of a scenario and their levels. The spread between methods is the standard deviation of their expected
accuracy in percentage points, linearised at the level, or in per cent of the loss; 0 in null scenarios."""
SHIFTED: dict[str, dict[str, Any]] = {
    "groups of five examples": {"group": 5},
    "seeds vary by three points": {"seed_points": 3.0},
    "seeds vary by a quarter of a point": {"seed_points": 0.25},
    "Student's t with 2.5 degrees of freedom": {"tails": "t2.5"},
    "one method 20 points worse": {"outlier": 20.0},
    "methods spread by 15 points": {"spread": 15.0},
    "skewed losses": {"level": "loss", "skew": 1.2},
}
"""Scenarios outside the distribution, which are reported but have no criteria."""
HARD, OWN, ALONE = 1.0, 0.4, 0.5
"""Standard deviations of an example's difficulty that all runs, the runs of one method, and one run share."""
SETTINGS = 5
"""The number of learning rates that are tried."""
CHOSEN_CENTRE = (1.0, 3.0)
"""The range of the best learning rate, as an index into the tried ones."""
DEV = 100
"""The number of dev examples."""
REPEATS = 200
"""How often tuning is simulated to estimate which learning rate it would choose."""
HIGHEST = 0.99
"""The highest expected accuracy of a method; normal draws above it are redrawn."""


@dataclass(frozen=True)
class Scenario:
    """One level of each factor."""

    methods: int
    seeds: int
    examples: int
    spread: float
    variances: str
    tails: str
    curve: bool
    level: float | str
    seed_points: float = 1.0
    group: int = 1
    outlier: float = 0.0
    skew: float = 0.6

    @property
    def loss(self) -> bool:
        """Whether scores are losses, and not accuracies."""
        return self.level == "loss"


@dataclass
class Simulation:
    """Simulated scores, and the truth behind them."""

    scores: dict[str, dict[int, np.ndarray]]
    """By method and seed, the score of each example, shape (examples,)."""
    truth: dict[str, float]
    """By method, its expected score over seeds, examples and tuning."""
    tunings: dict[str, Tuning] = field(default_factory=dict)
    groups: list[str] | None = None


def draw_scenario(rng: np.random.Generator, **changed: Any) -> Scenario:
    """Draw one level of each factor.

    Args:
        rng: the random number generator.
        changed: factors that are given, and not drawn.
    """
    levels = {name: values[rng.integers(len(values))] for name, values in PI.items()}
    return Scenario(**{**levels, **changed})


def simulate(scenario: Scenario, rng: np.random.Generator) -> Simulation:
    """Simulate the runs of a scenario.

    Args:
        scenario: the levels of the factors.
        rng: the random number generator.
    """
    points = 0.01 / _slope(scenario)
    centre = 0.0 if scenario.loss else float(stats.norm.ppf(scenario.level) * _total_deviation())
    sign = -1.0 if scenario.loss else 1.0
    means = centre + sign * scenario.spread * points * rng.standard_normal(scenario.methods)
    while not scenario.loss and (means > _highest_mean()).any():
        redrawn = centre + scenario.spread * points * rng.standard_normal(len(means))
        means = np.where(means > _highest_mean(), redrawn, means)
    means[0] -= sign * scenario.outlier * points
    deviations = np.full(scenario.methods, scenario.seed_points * points)
    if scenario.variances == "log-normal":
        deviations = deviations * np.exp(0.5 * rng.standard_normal(scenario.methods))
    number = scenario.examples // scenario.group
    hard = np.repeat(rng.standard_normal(number) * HARD, scenario.group)
    groups = None if scenario.group == 1 else [str(i // scenario.group) for i in range(len(hard))]
    simulation = Simulation({}, {}, groups=groups)
    centres = rng.uniform(*CHOSEN_CENTRE, len(means))
    slopes = points * np.exp(0.5 * rng.standard_normal(len(means)))
    if scenario.spread == 0:  # equal methods must also lose equally much by tuning
        centres[:], slopes[:] = centres[0], slopes[0]
    for index, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
        name = f"m{index}"
        difficulty = hard + np.repeat(rng.standard_normal(number) * OWN, scenario.group)
        settings, chosen = np.zeros(1), 0
        if scenario.curve:
            settings = -sign * slopes[index] * (np.arange(SETTINGS) - centres[index]) ** 2
            dev_difficulty = (HARD**2 + OWN**2) ** 0.5 * rng.standard_normal(DEV)
            errors = _seed_effects(scenario, rng, (SETTINGS,), deviation)
            dev = _example_scores(scenario, mean + settings + errors, dev_difficulty, rng)
            test = _example_scores(scenario, mean + settings + errors, difficulty, rng)
            chosen = int(np.argmax(sign * dev.mean(1)))
            simulation.tunings[name] = Tuning([TrialScores(k, dev[k], test[k]) for k in range(SETTINGS)], chosen)
        effects = _seed_effects(scenario, rng, (scenario.seeds,), deviation)
        runs = _example_scores(scenario, mean + settings[chosen] + effects, difficulty, rng)
        simulation.scores[name] = dict(enumerate(runs))
        expected = _expected_scores(scenario, mean + settings, deviation)
        shares = _shares_of_choices(scenario, mean + settings, deviation, rng)
        simulation.truth[name] = float(shares @ expected)
    return simulation


def _total_deviation() -> float:
    return (HARD**2 + OWN**2 + ALONE**2) ** 0.5


def _highest_mean() -> float:
    return float(stats.norm.ppf(HIGHEST) * _total_deviation())


def _slope(scenario: Scenario) -> float:
    """The derivative of the expected score by the latent ability."""
    return 1.0 if scenario.loss else float(stats.norm.pdf(stats.norm.ppf(scenario.level)) / _total_deviation())


def _seed_effects(scenario: Scenario, rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> np.ndarray:
    if scenario.tails == "normal":
        return deviation * rng.standard_normal(shape)
    freedom = float(scenario.tails[1:])
    return deviation * rng.standard_t(freedom, shape) * np.sqrt((freedom - 2) / freedom)


def _example_scores(
    scenario: Scenario, ability: np.ndarray, examples: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The score of each example in each run: 0 or 1, or a loss.

    Args:
        scenario: the levels of the factors.
        ability: the latent ability of each run, shape (..., runs).
        examples: the difficulty of each example, shape (..., examples).
        rng: the random number generator.

    Returns:
        The scores, shape (..., runs, examples).
    """
    latent = examples + ALONE * rng.standard_normal((*ability.shape, examples.shape[-1]), dtype=np.float32)
    if scenario.loss:
        return (1 + ability[..., None]) * np.exp(scenario.skew * latent / _total_deviation() - scenario.skew**2 / 2)
    return (latent + ability[..., None] > 0).astype(float)


def _expected_scores(scenario: Scenario, ability: np.ndarray, deviation: float) -> np.ndarray:
    """The expected score of each setting over seeds and examples, shape (settings,)."""
    if scenario.loss:
        return 1 + ability
    levels = (np.arange(400) + 0.5) / 400
    freedom = np.inf if scenario.tails == "normal" else float(scenario.tails[1:])
    values = stats.t.ppf(levels, freedom) * (1.0 if np.isinf(freedom) else np.sqrt((freedom - 2) / freedom))
    return stats.norm.cdf((ability[:, None] + deviation * values) / _total_deviation()).mean(1)


def _shares_of_choices(
    scenario: Scenario, ability: np.ndarray, deviation: float, rng: np.random.Generator
) -> np.ndarray:
    """How often tuning with new seeds and dev examples chooses each setting, shape (settings,)."""
    if len(ability) == 1:
        return np.ones(1)
    sign = -1.0 if scenario.loss else 1.0
    runs = ability + _seed_effects(scenario, rng, (REPEATS, len(ability)), deviation)
    examples = (HARD**2 + OWN**2) ** 0.5 * rng.standard_normal((REPEATS, 1, DEV), dtype=np.float32)
    picked = (sign * _example_scores(scenario, runs, examples, rng).mean(2)).argmax(1)
    return np.bincount(picked, minlength=len(ability)) / REPEATS
