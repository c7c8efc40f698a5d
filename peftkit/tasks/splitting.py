"""Shares of rows, drawn by a seed."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from peftkit.errors import RowError
from peftkit.tasks.rows import INTERNAL, value

if TYPE_CHECKING:
    from datasets import Dataset

ORIGIN = f"{INTERNAL}row"
"""The column that holds where a row stood, from 0, before splits were cut and rows chosen."""


def hold_out(rows: Dataset, wanted: int, seed: int, stratify: str | None) -> tuple[Dataset, Dataset]:
    """Splits rows into two by a seed, with every label in the same share, as near as can be.

    Args:
        rows: the rows.
        wanted: how many of them are held out; at least one is.
        seed: decides which.
        stratify: the column whose values are kept in proportion; None for none.

    Returns:
        The rows that are left, and those that are held out.
    """
    rng = random.Random(f"{seed}/{len(rows)}")  # noqa: S311 - a sample, no secret
    groups: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(_strata(rows, stratify)):
        groups[key].append(index)
    wanted = max(1, wanted)
    exact = {key: len(group) * wanted / len(rows) for key, group in groups.items()}
    share = {key: int(number) for key, number in exact.items()}
    rest = sorted(groups, key=lambda key: (share[key] - exact[key], key))
    for key in rest[: wanted - sum(share.values())]:
        share[key] += 1
    out = {index for key in sorted(groups) for index in rng.sample(groups[key], share[key])}
    rows = _numbered(rows)
    return rows.select([i for i in range(len(rows)) if i not in out]), rows.select(sorted(out))


def _strata(rows: Dataset, column: str | None) -> list[str]:
    """What of each row is kept in proportion; nothing where there is no such column, which is told later."""

    def key(found: Any, top: str) -> str:
        try:
            return repr(value({top: found}, column or ""))
        except RowError:
            return ""

    for top in rows.column_names:
        if top in (column, (column or "").split(".")[0]):
            batches = rows.select_columns([top]).iter(batch_size=10_000)
            return [key(found, top) for batch in batches for found in batch[top]]
    return [""] * len(rows)


def draw(rows: Any, number: int, seed: int, split: str) -> Any:
    """Draws rows by a seed.

    Args:
        rows: the rows, held or streamed.
        number: at most so many are drawn.
        seed: decides which, together with ``split``.
        split: the name of the split.

    Returns:
        The rows drawn, in their order; of a stream the first ones.
    """
    from datasets import Dataset

    if not isinstance(rows, Dataset):
        return rows.take(number)
    if len(rows) <= number:
        return rows
    rng = random.Random(f"{seed}/{split}")  # noqa: S311 - a sample, no secret
    return _numbered(rows).select(sorted(rng.sample(range(len(rows)), number)))


def _numbered(rows: Dataset) -> Dataset:
    return rows if ORIGIN in rows.column_names else rows.add_column(ORIGIN, list(range(len(rows))))
