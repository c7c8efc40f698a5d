"""Encodes a row whose answer is not known, with the function that encodes rows with their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from peftkit.errors import MissingFieldsError, one_line

if TYPE_CHECKING:
    from peftkit.components import Example

PLACEHOLDERS = 0xF0000
"""The first of the private-use characters that stand in for missing fields: no text has a meaning for them."""


def without_answer(encode: Callable[[Mapping[str, Any]], Example], row: Mapping[str, Any]) -> Example:
    """Encodes a row that may lack its answer.

    Every field that the row lacks is replaced by a character of its own. Where that character ends up in the source or
    the candidates, the prompt reads the field; where it does not, the field is part of the answer.

    Args:
        encode: a task's ``encode``.
        row: a row, with or without its answer.

    Returns:
        The example, with a placeholder as its target (see ``unanswered``).

    Raises:
        MissingFieldsError: the row lacks fields that the prompt reads, or ``encode`` fails without the answer.
    """
    filled = _Filled(row)
    try:
        example = encode(filled)
    except Exception as error:
        if not filled.missing:
            raise
        reason = f"encode needs the answer ({one_line(error)}), so the task has to override to_prompt"
        raise MissingFieldsError(list(filled.missing), reason) from error
    shown = "".join([example.source, *example.candidates])
    needed = [field for field, character in filled.missing.items() if character in shown]
    if needed:
        raise MissingFieldsError(needed)
    return unanswered(example)


def unanswered(example: Example) -> Example:
    """The example without its answer: the first candidate is its target, or an empty text where there are none."""
    return replace(example, target=next(iter(example.candidates), ""), references=(), extra={})


class _Filled(dict[str, Any]):
    """A row with a placeholder for every field that it lacks."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.missing: dict[str, str] = {}

    def __missing__(self, field: str) -> str:
        return self.missing.setdefault(field, chr(PLACEHOLDERS + len(self.missing)))
