"""Converts the rows of a split to examples, and locates those that are invalid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from peftkit.components import Example, Task
from peftkit.errors import InputError, RowError, RunError, summarize_error


def to_examples(task: Task, split: str, rows: Iterable[Mapping[str, Any]], indices: Iterable[int]) -> list[Example]:
    """Converts rows to examples.

    Args:
        task: The task.
        split: Name of the split, for error messages.
        rows: The rows.
        indices: Index of each row in the split, for error messages.

    Raises:
        InputError: A row is invalid; the message has its location.
        RunError: The task raised another error on a row.
    """
    examples = []
    for index, row in zip(indices, rows, strict=False):
        try:
            example = task.to_example(row)
            if example.candidates and example.target not in example.candidates:
                raise RowError("target", f"{example.target!r} is not one of the choices {list(example.candidates)}")
        except RowError as error:
            raise InputError(f"{describe_row(task, split, index, row)}: {error}") from error
        except InputError:  # concerns the whole dataset
            raise
        except Exception as error:  # a plugin's task
            location = describe_row(task, split, index, row)
            raise RunError(f"{location}: the task raised {summarize_error(error)}") from error
        examples.append(example)
    return examples


def describe_row(task: Task, split: str, index: int, row: Mapping[str, Any]) -> str:
    """Describes where a row is, or its content if the index is -1 (streams of several files).

    Args:
        task: The task.
        split: Name of the split.
        index: Index of the row in the split.
        row: The row.
    """
    if index >= 0:
        return task.describe_row(split, index)
    content = repr(dict(row))
    return f"task {task.name!r}, split {split!r}, row {content if len(content) <= 200 else content[:199] + '…'}"
