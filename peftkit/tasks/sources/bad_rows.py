"""Leaves invalid rows out of the splits of a task that skips them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from peftkit.components.types import SkippedRow
from peftkit.errors import DataError, InputError, RowError
from peftkit.tasks.columns import INTERNAL
from peftkit.tasks.sources.data_source import describe
from peftkit.tasks.sources.row_groups import iterate
from peftkit.tasks.sources.split_loading import locate_row

if TYPE_CHECKING:
    from datasets import DatasetDict

    from peftkit.components import Example
    from peftkit.tasks.dataset_task import DatasetTask

CHECKED_TOGETHER = 1000
"""Number of rows that are checked at a time."""
MIN_STREAMED_ROWS = 1000
"""The share of invalid rows in a stream is that of at least this number of rows."""


@dataclass
class SkippedSplit:
    """The rows of a split that are left out.

    Attributes:
        reasons: What is wrong with each row, by its index in the split.
        ignored: Indices of valid rows that are left out.
        contents: The content of each row of a stream whose number does not locate it, by its number.
    """

    reasons: dict[int, str] = field(default_factory=dict)
    ignored: set[int] = field(default_factory=set)
    contents: dict[int, str] = field(default_factory=dict)

    def original_index(self, index: int) -> int:
        """Return the index that a row had before rows were left out.

        Args:
            index: Its index among the rows that are left.
        """
        for skipped in sorted({*self.reasons, *self.ignored}):
            if skipped > index:
                break
            index += 1
        return index


def most_bad_rows(max_bad: int | str, rows: int) -> int:
    """Return how many of some rows may be invalid.

    Args:
        max_bad: A number, or a share such as ``1%``.
        rows: The number of rows.
    """
    return max_bad if isinstance(max_bad, int) else int(rows * parse_percentage(max_bad) + 1e-9)


def parse_percentage(text: str) -> float:
    """Return the share that a text such as ``1%`` means.

    Raises:
        ValueError: It is no percentage from 0% to 100%.
    """
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / 100
    except ValueError:
        share = -1
    if not text.strip().endswith("%") or not 0 <= share <= 1:
        raise ValueError(f"{text!r} is neither a number of rows nor a percentage, such as '1%'")
    return share


def to_valid_example(
    to_example: Callable[[Mapping[str, Any]], Example], row: Mapping[str, Any]
) -> tuple[Example | None, str | None]:
    """Return the example of a row, or what is wrong with the row.

    Args:
        to_example: The task's.
        row: The row.

    Returns:
        The example and None, or None and the reason; None and None if a plugin's task fails on the row in another way.

    Raises:
        InputError: The data as a whole are invalid.
    """
    try:
        example = to_example(row)
    except RowError as error:
        return None, str(error)
    except InputError:  # concerns the whole dataset
        raise
    except Exception:  # reported with its location when the row is used
        return None, None
    if example.candidates and example.target not in example.candidates:
        return None, f"target: {example.target!r} is not one of the choices {list(example.candidates)}"
    return example, None


def leave_out_bad_rows(task: DatasetTask, splits: Mapping[str, Any]) -> tuple[DatasetDict, dict[str, SkippedSplit]]:
    """Leave the invalid rows out of the splits of a task; out of a stream, while it is read.

    Args:
        task: The task.
        splits: The rows of each split.

    Returns:
        The valid rows of each split, and the skipped ones.

    Raises:
        InputError: More rows are invalid than the task allows.
    """
    from datasets import Dataset, DatasetDict

    valid: dict[str, Any] = {}
    skipped = {split: SkippedSplit() for split in splits}
    for split, rows in splits.items():
        if isinstance(rows, Dataset):
            kept = []
            for index, (reason, ignored) in enumerate(_examine(task, split, iterate(rows))):
                if ignored:
                    skipped[split].ignored.add(index)
                elif reason is not None:
                    skipped[split].reasons[index] = reason
                else:
                    kept.append(index)
            _check_number(task, split, skipped[split], len(rows))
            valid[split] = rows.select(kept) if len(kept) < len(rows) else rows
        else:
            valid[split] = _skip_in_stream(task, split, rows, skipped[split])
    return DatasetDict(valid), skipped


def _skip_in_stream(task: DatasetTask, split: str, rows: Any, skipped: SkippedSplit) -> Any:
    sharded = rows.num_shards > 1  # shards are shuffled, so the number of a row does not locate it
    numbers: dict[str, int] = {}

    def keep(row: Mapping[str, Any], index: int) -> bool:
        [(reason, ignored)] = _examine(task, split, [row])
        if ignored:
            skipped.ignored.add(index)
            return False
        if reason is None:
            return True
        if sharded:
            content = repr({name: value for name, value in row.items() if not name.startswith(INTERNAL)})
            index_of_row = numbers.setdefault(content, len(numbers))
            skipped.contents[index_of_row] = content if len(content) <= 200 else content[:199] + "…"
        else:
            index_of_row = index
        skipped.reasons[index_of_row] = reason
        _check_number(task, split, skipped, max(index + 1, MIN_STREAMED_ROWS))
        return False

    return rows.filter(keep, with_indices=True)


def _examine(task: DatasetTask, split: str, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str | None, bool]]:
    """Yields why each row is skipped, None if it is not, and whether it is ignored."""
    iterator = iter(rows)
    while batch := list(islice(iterator, CHECKED_TOGETHER)):
        ignored = [task.is_ignored(row) for row in batch]
        reasons: list[str | None] = [None] * len(batch)
        examples: dict[int, Example] = {}
        for position, row in enumerate(batch if task.skips_bad_rows else ()):
            if not ignored[position]:
                example, reasons[position] = to_valid_example(task.to_example, row)
                if example is not None:
                    examples[position] = example
        if task._example_check is not None and examples:
            checked = task._example_check(split, [*examples.values()])
            for position, reason in zip(examples, checked, strict=True):
                reasons[position] = reason
        yield from zip(reasons, ignored, strict=True)


def _check_number(task: DatasetTask, split: str, skipped: SkippedSplit, rows: int) -> None:
    """Raises if more rows are skipped than the task's ``max_bad`` allows."""
    number = len(skipped.reasons)
    if number and number > most_bad_rows(task.max_bad, rows):
        first = next(locate_skipped(task, {split: skipped}))
        text = f"{number:,} of {rows:,} rows are invalid, but max_bad allows {task.max_bad}; the first is {first}"
        raise DataError("max_bad", text, split)


def locate_skipped(task: DatasetTask, skipped: Mapping[str, SkippedSplit]) -> Iterator[SkippedRow]:
    """Yield the skipped rows with their files.

    Args:
        task: The task.
        skipped: The skipped rows of each split.
    """
    source = task._data_source()
    for split, each in skipped.items():
        for index, reason in sorted(each.reasons.items()):
            if index in each.contents:
                yield SkippedRow(split, f"{describe(source)}, {each.contents[index]}", 0, reason)
            else:
                yield SkippedRow(split, *locate_row(source, split, index), reason)
