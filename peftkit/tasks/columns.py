"""Reads values, texts and choices from the columns of a row."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from peftkit.answer_texts.number_texts import parse_numbers
from peftkit.errors import RowError, did_you_mean

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""Labels of choices that have none of their own."""
INTERNAL = "\x1fpeftkit/"
"""Prefix of columns that peftkit adds. It cannot occur in a file's column, and messages do not show such columns."""
EMPTY = "is empty"
"""Message of the error for a column without a value."""
AnswerFormat = Literal["auto", "label", "index", "number", "text"]
"""What an answer is: the label of a choice, its number from 0 (``index``) or from 1 (``number``), or its text; ``auto``
accepts labels and texts."""


def get_value(row: Mapping[str, Any], column: str) -> Any:
    """Returns the value of a column.

    Args:
        row: The row.
        column: Name of the column; dots select nested fields, also of every element of a list.

    Raises:
        RowError: The column does not exist or is None.
    """
    if column in row:
        result: Any = row[column]
    else:
        result = row
        for part in column.split("."):
            if isinstance(result, list) and result and all(isinstance(e, Mapping) and part in e for e in result):
                result = [each[part] for each in result]
            elif isinstance(result, Mapping) and part in result:
                result = result[part]
            elif result is None:
                break
            else:
                raise RowError(column, f"there is no such field{did_you_mean(part, visible_columns(row))}")
    if result is None:
        raise RowError(column, EMPTY)
    return result


def visible_columns(columns: Iterable[str]) -> list[str]:
    """Returns the columns without those that peftkit adds."""
    return [name for name in columns if not name.startswith(INTERNAL)]


def has_column(row: Mapping[str, Any], column: str) -> bool:
    """Returns whether a row has a column, which may be None.

    Args:
        row: The row.
        column: Name of the column; dots select nested fields.
    """
    try:
        get_value(row, column)
    except RowError as error:
        return error.text == EMPTY
    return True


def get_text(row: Mapping[str, Any], column: str) -> str:
    """Returns the value of a column as text.

    Args:
        row: The row.
        column: Name of the column; dots select nested fields.

    Raises:
        RowError: The column does not exist, is None, or is neither a text nor a number.
    """
    result = get_value(row, column)
    if isinstance(result, str):
        return _check_encodable(result, column)
    if isinstance(result, bool) or not isinstance(result, int | float) or not math.isfinite(result):
        raise RowError(column, f"must be a text, not {short_repr(result)}")
    return str(result)


def get_nonblank_text(row: Mapping[str, Any], column: str) -> str:
    """Returns the value of a column as text that is not blank.

    Args:
        row: The row.
        column: Name of the column; dots select nested fields.

    Raises:
        RowError: The column does not exist, is None or blank, or is neither a text nor a number.
    """
    result = get_text(row, column)
    if not result.strip():
        raise RowError(column, EMPTY)
    return result


def get_number_text(row: Mapping[str, Any], column: str) -> str:
    """Returns the value of a column, a number, as a text; one in 32-bit precision is written as 3.2.

    Args:
        row: The row.
        column: Name of the column; dots select nested fields.

    Raises:
        RowError: The column does not exist, is None, or is not a finite number.
    """
    import numpy as np

    value = get_value(row, column)
    if isinstance(value, bool):
        raise RowError(column, f"must be a number, not {short_repr(value)}")
    text = get_text(row, column).strip()
    if not text:
        raise RowError(column, EMPTY)
    numbers = parse_numbers(text)
    if numbers is None or len(numbers) != 1 or not math.isfinite(numbers[0]):
        raise RowError(column, f"must be a number, such as 3.5, not {short_repr(value)}")
    if isinstance(value, float) and float(np.float32(value)) == value:
        return str(np.float32(value))  # the shortest text
    return text


def get_texts(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Returns a list of texts: the elements of one column, or the values of several columns.

    Args:
        row: The row.
        columns: Names of the columns.

    Raises:
        RowError: A text is missing, or is neither a text nor a number.
    """
    if len(columns) > 1:
        return [get_text(row, column) for column in columns]
    result = get_value(row, columns[0])
    if isinstance(result, str) or not isinstance(result, Sequence):
        raise RowError(columns[0], f"must be a list of texts, not {short_repr(result)}")
    for each in result:
        if (
            isinstance(each, bool)
            or not isinstance(each, str | int | float)
            or (isinstance(each, float) and not math.isfinite(each))
        ):
            raise RowError(columns[0], f"must be a list of texts, but contains {short_repr(each)}")
    return [_check_encodable(str(each), columns[0]) for each in result]


def match_choice(
    answer: Any, choices: Sequence[str], labels: Sequence[str], answer_format: AnswerFormat, column: str
) -> int:
    """Finds the choice that an answer refers to.

    Args:
        answer: Value of the answer column.
        choices: The choices.
        labels: Labels of the choices, such as A, B, C.
        answer_format: What the answer is: a label, a text, or a number from 0 (``index``) or from 1 (``number``).
            ``auto`` accepts labels and texts.
        column: Name of the answer column, for error messages.

    Returns:
        Index of the choice.

    Raises:
        RowError: The answer matches no choice, or is ambiguous.
    """
    matches: dict[str, int] = {}
    word = str(answer).strip()
    if answer_format in ("auto", "label") and isinstance(answer, str) and word in labels:
        matches["label"] = list(labels).index(word)
    stripped = [choice.strip() for choice in choices]
    is_text = isinstance(answer, str) or (answer_format == "text" and isinstance(answer, int | float))
    if answer_format in ("auto", "text") and is_text and _find_spelling(answer, stripped) is not None:
        matches["text"] = stripped.index(_find_spelling(answer, stripped) or "")
    if answer_format in ("index", "number") and re.fullmatch(r"-?\d+", word) and not isinstance(answer, bool):
        first = 0 if answer_format == "index" else 1
        if not 0 <= int(word) - first < len(choices):
            raise RowError(column, f"{word} is out of range for {len(choices)} choices, counted from {first}")
        matches[answer_format] = int(word) - first
    if answer_format == "auto" and "text" in matches and re.fullmatch("[0-9]+", word):  # also a number from 0 or 1?
        indices = {int(word) - first for first in (0, 1)} & {*range(len(choices))}
        if others := indices - {matches["text"]}:
            matches["number"] = min(others)
    if not matches:
        options = f"labels {', '.join(labels)}; choices {', '.join(map(repr, choices))}"
        hint = (
            "; numbers need answer_is = 'index' (from 0) or 'number' (from 1)"
            if answer_format == "auto" and word.isdigit()
            else ""
        )
        raise RowError(column, f"the answer {short_repr(answer)} is not among the choices ({options}){hint}")
    if len(set(matches.values())) > 1:
        kinds = " or a ".join(sorted(matches))
        raise RowError(column, f"the answer {short_repr(answer)} may be a {kinds}; set answer_is")
    return next(iter(matches.values()))


def _find_spelling(answer: Any, choices: Sequence[str]) -> str | None:
    """Returns the choice that an answer spells; None if there is none."""
    spellings = [str(answer).lower(), str(answer)] if isinstance(answer, bool) else [str(answer).strip()]
    return next((spelling for spelling in spellings if spelling in choices), None)


def check_choices(choices: Sequence[str], column: str) -> None:
    """Checks that choices are distinct and not blank, ignoring surrounding whitespace.

    Args:
        choices: The choices.
        column: Name of their column, for error messages.

    Raises:
        RowError: A choice is blank or occurs twice.
    """
    seen: set[str] = set()
    for choice in map(str.strip, choices):
        if not choice:
            raise RowError(column, "has an empty choice")
        if choice in seen:
            raise RowError(column, f"has the choice {choice!r} twice")
        seen.add(choice)


def _check_encodable(text: str, column: str) -> str:
    """Returns the text; raises if it has lone surrogates, which tokenizers do not accept."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(column, f"has an invalid character (a lone surrogate) at position {error.start + 1}") from error
    return text


def short_repr(value: object) -> str:
    """Returns the repr of a value, shortened to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
