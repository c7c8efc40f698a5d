"""Draws seeded samples of rows: held-out splits and subsets."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
        stratify: Column whose values keep their proportions in both sets, and of whose values a row of each remains;
            None for a simple random split.

    Returns:
        The remaining rows, and those held out.
    """
    rng = random.Random(f"{seed}/{len(rows)}")  # noqa: S311 - not used for security
    groups = _group(rows, stratify)
    sizes = _stratum_sizes(groups, max(1, number), spared=1)
    held_out = {index for key in sorted(groups) for index in rng.sample(groups[key], sizes[key])}
    rows = _add_origin(rows)
    return rows.select([i for i in range(len(rows)) if i not in held_out]), rows.select(sorted(held_out))


def _group(rows: Dataset, stratify: str | None) -> dict[str, list[int]]:
    """Returns the indices of the rows of each stratum."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(_strata(rows, stratify)):
        groups[key].append(index)
    return groups


def _stratum_sizes(
    groups: Mapping[str, Sequence[int]], number: int, *, drawn: int = 0, spared: int = 0
) -> dict[str, int]:
    """Returns how many rows to draw of each stratum: its share, to within one row where the limits allow it.

    Args:
        groups: The rows of each stratum.
        number: Number of rows to draw.
        drawn: Number of rows to draw of each stratum at least, if ``number`` suffices.
        spared: Number of rows of each stratum not to draw, if the others suffice.
    """
    total = sum(map(len, groups.values()))
    quotas = {key: len(group) * number / total for key, group in groups.items()}
    least = {key: min(drawn, len(group)) for key, group in groups.items()}
    if sum(least.values()) > number:
        least = dict.fromkeys(groups, 0)
    most = {key: max(least[key], len(group) - spared) for key, group in groups.items()}
    if sum(most.values()) < number:
        most = {key: len(group) for key, group in groups.items()}
    sizes = {key: min(max(int(quotas[key]), least[key]), most[key]) for key in groups}
    while (missing := number - sum(sizes.values())) != 0:
        step, limit = (1, most) if missing > 0 else (-1, least)
        free = [key for key in groups if sizes[key] != limit[key]]
        for key in sorted(free, key=lambda key: (step * (sizes[key] - quotas[key]), key))[: abs(missing)]:
            sizes[key] += step
    return sizes


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


def draw_sample(rows: Any, number: int, seed: int, split: str, stratify: str | None = None) -> Any:
    """Draws a sample of rows by a seed.

    Args:
        rows: A dataset or a stream.
        number: Maximum number of rows.
        seed: Seed of the sample, together with ``split``.
        split: Name of the split.
        stratify: Column whose values keep their proportions, and of whose values a row of each is drawn if ``number``
            suffices; None for a simple random sample.

    Returns:
        The sampled rows in their original order; for a stream, the first rows.
    """
    from datasets import Dataset

    if not isinstance(rows, Dataset):
        return rows.take(number)
    if len(rows) <= number:
        return rows
    rng = random.Random(f"{seed}/{split}")  # noqa: S311 - not used for security
    groups = _group(rows, stratify)
    sizes = _stratum_sizes(groups, number, drawn=1)
    return _add_origin(rows).select(sorted(i for key in sorted(groups) for i in rng.sample(groups[key], sizes[key])))


def _add_origin(rows: Dataset) -> Dataset:
    return rows if ORIGIN in rows.column_names else rows.add_column(ORIGIN, list(range(len(rows))))
