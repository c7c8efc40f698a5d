"""Finds the rows that belong together, so that none of them is held out without the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftkit.answer_texts.text_normalization import text_hash
from peftkit.errors import InputError, RowError

if TYPE_CHECKING:
    from peftkit.tasks.dataset_task import DatasetTask


@dataclass(frozen=True, eq=False)
class RowGroups:
    """How a task groups rows: those with the same normalized source are together, and those of one group.

    Attributes:
        task: The task; tasks with the same options have the same groups.
    """

    task: DatasetTask

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RowGroups):
            return NotImplemented
        return type(self.task) is type(other.task) and vars(self.task) == vars(other.task)

    def __hash__(self) -> int:
        return hash(type(self.task))

    @property
    def rule(self) -> str:
        """What rows of one group have in common, for messages."""
        column = self.task.grouping_column()
        return "the same source" + (f" or the same {column!r}" if column else "")

    def find(self, rows: Any) -> list[int]:
        """Return the group of each row: the index of its first row.

        Groups that have a row in common are one: rows with the same source may be of different groups.

        Args:
            rows: The rows.
        """
        parents: list[int] = []
        first: dict[tuple[str, int | str], int] = {}

        def root(index: int) -> int:
            while parents[index] != index:
                parents[index] = index = parents[parents[index]]
            return index

        for index, row in enumerate(iterate(rows)):
            parents.append(index)
            for key in self._keys(row):
                low, high = sorted((root(first.setdefault(key, index)), root(index)))
                parents[high] = low
        return [root(index) for index in range(len(parents))]

    def _keys(self, row: Mapping[str, Any]) -> Iterator[tuple[str, int | str]]:
        """Yield what rows that belong together have in common; nothing of invalid rows, which are reported later."""
        try:
            yield "source", text_hash(self.task.source_of(row))
            if group := self.task.group_of(row):
                yield "group", group
        except (RowError, InputError):
            return
        except Exception:
            return


def iterate(rows: Any, columns: Sequence[str] | None = None) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a dataset, which is faster by batches.

    Args:
        rows: The dataset, or a stream.
        columns: The columns to read, those that exist; None for all.
    """
    names = None if columns is None else [column for column in columns if column in (rows.column_names or ())]
    for batch in (rows if names is None else rows.select_columns(names)).iter(batch_size=1000):
        keys: Sequence[str] = list(batch)
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(keys, values, strict=True))
