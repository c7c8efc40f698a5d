"""The confidence interval of a proportion, such as an accuracy, by Wilson (1927)."""

from __future__ import annotations

from scipy.stats import binomtest


def wilson_interval(successes: int, examples: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion of examples.

    Args:
        successes: The number of examples that count, such as those that are answered correctly.
        examples: The number of all examples, at least one.

    Returns:
        The two ends.
    """
    interval = binomtest(successes, examples).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
