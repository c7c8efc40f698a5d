"""Draws seeded samples of rows: held-out splits and subsets."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from peftkit.errors import RowError
from peftkit.tasks.columns import INTERNAL, get_value

if TYPE_CHECKING:
    from datasets import Dataset

ORIGIN = f"{INTERNAL}row"
"""Column with the index of each row in its source, before rows were split and sampled."""


def hold_out(rows: Dataset, number: int, seed: int, stratify: str | None) -> tuple[Dataset, Dataset]:
    """Splits rows into two sets by a seed.

    Args:
        rows: The rows.
        number: Number of rows to hold out, at least 1.
        seed: Seed of the split.
        stratify: Column whose values keep their proportions in both sets; None for a simple random split.

    Returns:
        The remaining rows, and those held out.
    """
    rng = random.Random(f"{seed}/{len(rows)}")  # noqa: S311 - not used for security
    groups: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(_strata(rows, stratify)):
        groups[key].append(index)
    number = max(1, number)
    quotas = {key: len(group) * number / len(rows) for key, group in groups.items()}
    sizes = {key: int(quota) for key, quota in quotas.items()}
    by_remainder = sorted(groups, key=lambda key: (sizes[key] - quotas[key], key))
    for key in by_remainder[: number - sum(sizes.values())]:
        sizes[key] += 1
    held_out = {index for key in sorted(groups) for index in rng.sample(groups[key], sizes[key])}
    rows = _add_origin(rows)
    return rows.select([i for i in range(len(rows)) if i not in held_out]), rows.select(sorted(held_out))


def _strata(rows: Dataset, column: str | None) -> list[str]:
    """Returns the stratum of each row; all are empty if the column is missing, which is reported later."""

    def key(content: Any, top: str) -> str:
        try:
            return repr(get_value({top: content}, column or ""))
        except RowError:
            return ""

    for top in rows.column_names:
        if top in (column, (column or "").split(".")[0]):
            batches = rows.select_columns([top]).iter(batch_size=10_000)
            return [key(content, top) for batch in batches for content in batch[top]]
    return [""] * len(rows)


def draw_sample(rows: Any, number: int, seed: int, split: str) -> Any:
    """Draws a sample of rows by a seed.

    Args:
        rows: A dataset or a stream.
        number: Maximum number of rows.
        seed: Seed of the sample, together with ``split``.
        split: Name of the split.

    Returns:
        The sampled rows in their original order; for a stream, the first rows.
    """
    from datasets import Dataset

    if not isinstance(rows, Dataset):
        return rows.take(number)
    if len(rows) <= number:
        return rows
    rng = random.Random(f"{seed}/{split}")  # noqa: S311 - not used for security
    return _add_origin(rows).select(sorted(rng.sample(range(len(rows)), number)))


def _add_origin(rows: Dataset) -> Dataset:
    return rows if ORIGIN in rows.column_names else rows.add_column(ORIGIN, list(range(len(rows))))
