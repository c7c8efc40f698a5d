"""Draws subsets of rows: stratified ones to evaluate, and resampled ones to train on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from peftkit.recipe.tables.run_config import RunConfig

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


def stratified_sample(strata: Sequence[Any], limit: int | None, name: str) -> list[int]:
    """Draws a stratified sample: the size of every stratum is proportional, to within one row.

    The sample depends on the rows and the name only, so that runs with different seeds are selected and compared on the
    same rows. Rows are sorted by stratum, shuffled within strata, and taken at equal distances (systematic sampling).

    Args:
        strata: The stratum of each row; values must be sortable.
        limit: Number of rows to draw; None for all.
        name: Name of the split, which seeds the shuffle.

    Returns:
        Indices of the sampled rows in ascending order.
    """
    number = len(strata)
    if limit is None or limit >= number:
        return list(range(number))
    rng = random.Random(name)  # noqa: S311 - not used for security
    order = sorted(range(number), key=[(stratum, rng.random()) for stratum in strata].__getitem__)
    return sorted(order[(2 * i + 1) * number // (2 * limit)] for i in range(limit))
