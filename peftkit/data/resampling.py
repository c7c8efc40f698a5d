"""Resamples the training rows by the run's seed, to include the choice of rows in the variance between seeds."""

from __future__ import annotations

import random

from peftkit.recipe.tables import RunConfig

DEFAULT_SUBSET_FRACTION = 0.5


def resample_indices(run: RunConfig, rows: int) -> list[int] | None:
    """Draws the training rows of a run that resamples them.

    The sample depends on ``seed`` and the number of rows only, so every method is trained on the same one.

    Args:
        run: The recipe's ``[run]`` table.
        rows: Number of training rows.

    Returns:
        Indices of the rows in ascending order, with repeats for a bootstrap; None to train on all rows.
    """
    if run.resample_train is None:
        return None
    rng = random.Random(f"{run.seed}/{run.resample_train}")  # noqa: S311 - not used for security
    if run.resample_train == "bootstrap":
        return sorted(rng.choices(range(rows), k=rows))
    return sorted(rng.sample(range(rows), max(1, round(rows * (run.subset_fraction or DEFAULT_SUBSET_FRACTION)))))
