"""Fields of a row: columns within columns, choices, and which of them is right."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from peftkit.errors import RowError, did_you_mean

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
INTERNAL = "\x1fpeftkit/"
"""Begins the names of columns that are not the user's; no file has such a name, and no message shows one."""
EMPTY = "is empty"
"""What is wrong with a column in which nothing stands."""
AnswerForm = Literal["auto", "label", "index", "number", "text"]


def value(row: Mapping[str, Any], column: str) -> Any:
    """What stands in a column; dots go into tables, and through lists of them.

    Raises:
        RowError: there is no such column, or nothing stands in it.
    """
    if column in row:
        found: Any = row[column]
    else:
        found = row
        for part in column.split("."):
            if isinstance(found, list) and found and all(isinstance(each, Mapping) and part in each for each in found):
                found = [each[part] for each in found]
            elif isinstance(found, Mapping) and part in found:
                found = found[part]
            else:
                raise RowError(column, f"there is no such field{did_you_mean(part, _names(row))}")
    if found is None:
        raise RowError(column, EMPTY)
    return found


def _names(row: Mapping[str, Any]) -> list[str]:
    return [name for name in row if not name.startswith(INTERNAL)]


def has(row: Mapping[str, Any], column: str) -> bool:
    """Whether there is such a column, empty or not; dots go into tables."""
    try:
        value(row, column)
    except RowError as error:
        return error.text == EMPTY
    return True


def text(row: Mapping[str, Any], column: str) -> str:
    """A column as text.

    Raises:
        RowError: it is missing or empty, or holds neither a text nor a number.
    """
    found = value(row, column)
    if isinstance(found, str):
        return _whole(found, column)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise RowError(column, f"must be a text, not {describe(found)}")
    return str(found)


def filled(row: Mapping[str, Any], column: str) -> str:
    """A column as text that is more than blanks.

    Raises:
        RowError: it is missing or empty, or holds neither a text nor a number.
    """
    found = text(row, column)
    if not found.strip():
        raise RowError(column, EMPTY)
    return found


def texts(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Several texts: the elements of one column that holds a list, or those of one column each.

    Raises:
        RowError: one of them is missing or no text.
    """
    if len(columns) > 1:
        return [text(row, column) for column in columns]
    found = value(row, columns[0])
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise RowError(columns[0], f"must be a list of texts, not {describe(found)}")
    for each in found:
        if (
            isinstance(each, bool)
            or not isinstance(each, str | int | float)
            or (isinstance(each, float) and not math.isfinite(each))
        ):
            raise RowError(columns[0], f"must be a list of texts, and holds {describe(each)}")
    return [_whole(str(each), columns[0]) for each in found]


def right_choice(given: Any, choices: Sequence[str], labels: Sequence[str], form: AnswerForm, column: str) -> int:
    """Which choice an answer means, from 0: by its label, by its number from 0 or from 1, or by its text.

    Raises:
        RowError: none of them, or it could be two different ones.
    """
    meant: dict[str, int] = {}
    word = str(given).strip()
    if form in ("auto", "label") and isinstance(given, str) and word in labels:
        meant["label"] = list(labels).index(word)
    stripped = [choice.strip() for choice in choices]
    is_text = isinstance(given, str) or (form == "text" and isinstance(given, int | float))
    if form in ("auto", "text") and is_text and _spelling(given, stripped) is not None:
        meant["text"] = stripped.index(_spelling(given, stripped) or "")
    if form in ("index", "number") and re.fullmatch(r"-?\d+", word) and not isinstance(given, bool):
        first = 0 if form == "index" else 1
        if not 0 <= int(word) - first < len(choices):
            raise RowError(column, f"{word} is no number of one of {len(choices)} choices, counted from {first}")
        meant[form] = int(word) - first
    if form == "auto" and "text" in meant and re.fullmatch("[0-9]+", word):  # 2 may be the second or the third as well
        places = {int(word) - first for first in (0, 1)} & {*range(len(choices))}
        if others := places - {meant["text"]}:
            meant["number"] = min(others)
    if not meant:
        shown = f"labels {', '.join(labels)}; choices {', '.join(map(repr, choices))}"
        hint = (
            "; a number counts from 0 with answer_is = 'index', and from 1 with 'number'"
            if form == "auto" and word.isdigit()
            else ""
        )
        raise RowError(column, f"the answer {describe(given)} is not among the choices ({shown}){hint}")
    if len(set(meant.values())) > 1:
        ways = " or ".join(sorted(meant))
        raise RowError(column, f"the answer {describe(given)} may be a {ways}; say which with answer_is")
    return next(iter(meant.values()))


def _spelling(given: Any, choices: Sequence[str]) -> str | None:
    """How the answer is written among the choices; None if it is not."""
    spellings = [str(given).lower(), str(given)] if isinstance(given, bool) else [str(given).strip()]
    return next((spelling for spelling in spellings if spelling in choices), None)


def refuse_duplicates(choices: Sequence[str], column: str) -> None:
    """No choice may stand twice, blanks at its ends aside, or be empty.

    Raises:
        RowError: one does, or is.
    """
    seen: set[str] = set()
    for choice in map(str.strip, choices):
        if not choice:
            raise RowError(column, "holds an empty choice")
        if choice in seen:
            raise RowError(column, f"holds the choice {choice!r} twice")
        seen.add(choice)


def _whole(found: str, column: str) -> str:
    """The text, if it can be written: no tokenizer takes half of a character.

    Raises:
        RowError: it cannot.
    """
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise RowError(column, f"holds half of a character (a lone surrogate) at place {error.start + 1}") from error
    return found


def describe(found: object) -> str:
    """A value as messages show it, shortened."""
    shown = repr(found)
    return shown if len(shown) <= 60 else shown[:59] + "…"
