"""Training samples that vary with the seed, so that comparisons see how much the choice of training rows matters."""

from __future__ import annotations

import random

from peftkit.recipe.tables import RunTable

HALF = 0.5
"""The share that a subset is of where the recipe names none."""


def sampled_rows(run: RunTable, rows: int) -> list[int] | None:
    """The training rows that the recipe's seed draws, in ascending order; None where all of them are trained on.

    The draw depends on ``seed`` and the number of rows alone: every method is trained on the same sample.

    Args:
        run: what the recipe says of the run.
        rows: how many training rows there are.
    """
    if run.resample_train is None:
        return None
    rng = random.Random(f"{run.seed}/{run.resample_train}")  # noqa: S311 - a sample, no secret
    if run.resample_train == "bootstrap":
        return sorted(rng.choices(range(rows), k=rows))
    return sorted(rng.sample(range(rows), max(1, round(rows * (run.subset_fraction or HALF)))))
