"""Draws seeded samples of rows: held-out splits and subsets."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from peftkit.errors import RowError
from peftkit.tasks.columns import INTERNAL, get_value

if TYPE_CHECKING:
    from datasets import Dataset

K = TypeVar("K")
ORIGIN = f"{INTERNAL}row"
"""Column with the index of each row in its source, before rows were split and sampled."""


def hold_out(
    rows: Dataset, number: int, seed: int, stratify: str | None, groups: Sequence[int] | None = None
) -> tuple[Dataset, Dataset]:
    """Splits rows into two sets by a seed.

    Args:
        rows: The rows.
        number: Number of rows to hold out, at least 1.
        seed: Seed of the split.
        stratify: Column whose values keep their proportions in both sets, and of whose values a row of each remains;
            None for a simple random split.
        groups: The group of each row; rows of one group are in the same set, so that the number held out is as near to
            ``number`` as groups allow. None if each row is a group.

    Returns:
        The remaining rows, and those held out; none are held out if all rows are one group.
    """
    rng = random.Random(f"{seed}/{len(rows)}")  # noqa: S311 - not used for security
    strata = _strata(rows, stratify)
    if groups is None or len({*groups}) == len(rows):
        by_stratum = _indices_by(strata)
        sizes = _stratum_sizes(by_stratum, max(1, number), spared=1)
        held_out = {index for key in sorted(by_stratum) for index in rng.sample(by_stratum[key], sizes[key])}
    else:
        held_out = _draw_groups([*_indices_by(groups).values()], strata, max(1, number), rng)
    rows = _add_origin(rows)
    return rows.select([i for i in range(len(rows)) if i not in held_out]), rows.select(sorted(held_out))


def _draw_groups(groups: Sequence[Sequence[int]], strata: Sequence[str], number: int, rng: random.Random) -> set[int]:
    """Draws whole groups of rows, of which each stratum has about its share and keeps a row, if possible.

    Args:
        groups: The indices of the rows of each group.
        strata: The stratum of each row.
        number: Number of rows to draw.
        rng: The random numbers.

    Returns:
        The indices of the rows; empty if there is one group.
    """
    wanted = _stratum_sizes(_indices_by(strata), number, spared=1)
    left, drawn, taken = Counter(strata), Counter[str](), set[int]()
    contents = [Counter(strata[index] for index in group) for group in groups]
    order = rng.sample(range(len(groups)), len(groups))

    def take(i: int) -> None:
        taken.update(groups[i])
        drawn.update(contents[i])
        left.subtract(contents[i])

    def keeps_strata(i: int) -> bool:
        return all(left[stratum] > rows for stratum, rows in contents[i].items())

    def change(i: int) -> int:
        """How much farther from the wanted sizes the strata are with a group."""
        gaps = ((wanted[stratum] - drawn[stratum], rows) for stratum, rows in contents[i].items())
        return sum(abs(gap - rows) - abs(gap) for gap, rows in gaps)

    for i in order:
        if len(taken) + len(groups[i]) <= number and change(i) < 0 and keeps_strata(i):
            take(i)
    for i in sorted((i for i in order if groups[i][0] not in taken), key=change):
        if abs(number - len(taken) - len(groups[i])) < number - len(taken) and keeps_strata(i):
            take(i)
    if not taken and len(groups) > 1:  # all are too large, or have a stratum of their own
        take(min(order, key=lambda i: (not keeps_strata(i), len(groups[i]))))
    return taken


def _indices_by(keys: Sequence[K]) -> dict[K, list[int]]:
    """Returns the indices of the rows of each stratum, or of each group."""
    indices: dict[K, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        indices[key].append(index)
    return indices


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
    strata = _indices_by(_strata(rows, stratify))
    sizes = _stratum_sizes(strata, number, drawn=1)
    return _add_origin(rows).select(sorted(i for key in sorted(strata) for i in rng.sample(strata[key], sizes[key])))


def _add_origin(rows: Dataset) -> Dataset:
    return rows if ORIGIN in rows.column_names else rows.add_column(ORIGIN, list(range(len(rows))))
