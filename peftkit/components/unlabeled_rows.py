"""Convert rows without an answer to examples, using a task's function for rows with answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from peftkit.errors import MissingFieldsError, summarize_error

if TYPE_CHECKING:
    from peftkit.components.inputs import Example

PLACEHOLDERS = 0xF0000
"""The first private-use character that stands in for a missing field; such characters do not occur in texts."""


def example_without_answer(to_example: Callable[[Mapping[str, Any]], Example], row: Mapping[str, Any]) -> Example:
    """Convert a row that may lack its answer.

    Every missing field is replaced by a different placeholder character. If that character occurs in the source or the
    candidates, the field is part of the prompt; otherwise it is part of the answer.

    Args:
        to_example: A task's ``to_example``.
        row: A row, with or without its answer.

    Returns:
        The example, with a placeholder as its target (see ``fill_placeholders``).

    Raises:
        MissingFieldsError: The row lacks fields of the prompt, or ``to_example`` fails without the answer.
    """
    filled = _RowWithPlaceholders(row)
    try:
        example = to_example(filled)
    except Exception as error:
        if not filled.missing:
            raise
        reason = f"to_example needs the answer ({summarize_error(error)}), so the task has to override to_prompt"
        raise MissingFieldsError(list(filled.missing), reason) from error
    prompt = "".join([example.source, *example.candidates])
    required = [field for field, character in filled.missing.items() if character in prompt]
    if required:
        raise MissingFieldsError(required)
    return fill_placeholders(example)


def fill_placeholders(example: Example) -> Example:
    """Return the example without its answer: its target is the first candidate, or empty if there are none."""
    return replace(example, target=next(iter(example.candidates), ""), references=(), extra={})


class _RowWithPlaceholders(dict[str, Any]):
    """A row with a placeholder for every missing field."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.missing: dict[str, str] = {}

    def __missing__(self, field: str) -> str:
        return self.missing.setdefault(field, chr(PLACEHOLDERS + len(self.missing)))
