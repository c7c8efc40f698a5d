"""The label of a row, and the names of all labels: given by the recipe or the data, or found in the training rows."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from peftkit.errors import InputError, RowError, did_you_mean, listed
from peftkit.tasks import sources
from peftkit.tasks.rows import EMPTY, INTERNAL, describe, value

NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
PLACE = re.compile(r"0|[1-9][0-9]*")


@lru_cache(maxsize=8)
def find_label_names(source: sources.Source, column: str) -> tuple[tuple[str, ...], bool]:
    """Finds the names of the labels of a source.

    Args:
        source: where the rows are.
        column: the column of the label; dots go into tables.

    Returns:
        The names that the data set has for its numbers, or else the labels of the training rows in natural order; and
        whether the column holds numbers of names.

    Raises:
        InputError: there is no such column, a row holds no single label, or texts and numbers are mixed.
    """
    train: Any = sources.read(source).splits["train"]
    if names := feature_names(train.features, column):
        return names, True
    top = column if column in train.column_names else column.split(".")[0]
    if top not in train.column_names:
        known = [name for name in train.column_names if not name.startswith(INTERNAL)]
        raise InputError(f"there is no column {column!r}; the training rows have {listed(known)}")
    first: tuple[int, str] | None = None
    empty: InputError | None = None
    found: dict[Any, None] = {}
    for index, label in enumerate(_labels(train, top, column)):
        if isinstance(label, RowError):
            wrong = InputError(f"{sources.where(source, 'train', index)}: {label}")
            if label.text == EMPTY:  # refused where the row is read, unless nothing reads it
                empty = empty or wrong
                continue
            raise wrong from label
        kind = _kind(label)
        if first is None:
            first = index, kind
        elif kind != first[1]:
            other = sources.where(source, "train", first[0])
            raise InputError(
                f"{sources.where(source, 'train', index)}: {column}: the label {describe(label)} is a {kind}, and that "
                f"of {other} is a {first[1]}; write all labels as one of them"
            )
        found[label] = None
    if empty and len(found) < 2:
        raise empty
    return tuple(sorted(dict.fromkeys(map(label_text, found)), key=natural)), False


def feature_names(features: Mapping[str, Any] | None, column: str) -> tuple[str, ...]:
    """The names that a data set has for the numbers of a column, also within a table; empty where it has none."""
    feature: Any = features or {}
    for part in [column] if column in feature else column.split("."):
        feature = feature.get(part) if isinstance(feature, Mapping) else None
    return tuple(getattr(feature, "names", None) or ())


def refuse_other_names(splits: Mapping[str, Any], column: str, names: Sequence[str], option: str) -> None:
    """Refuses data whose splits number their labels differently from each other or from the recipe.

    Args:
        splits: the rows of each split.
        column: the column of the label.
        names: the labels' names that the numbers will be read as.
        option: where these names come from, for the message.

    Raises:
        InputError: a split has a name at another number.
    """
    for split, rows in splits.items():
        known = feature_names(rows.features, column)
        for number, name in enumerate(known):
            if name in names and (number >= len(names) or names[number] != name):
                raise InputError(
                    f"{column}: the split {split!r} has the label {name!r} as number {number}, and {option} as number "
                    f"{list(names).index(name)}; name the labels in one order: {listed(known)}"
                )


def refuse_unclear(names: Sequence[str], column: str) -> None:
    """Refuses labels of which there are fewer than two, or of which two look alike.

    Raises:
        InputError: there are fewer, or two differ in blanks or in how characters are composed only.
    """
    if len(names) < 2:
        raise InputError(f"{column}: there is one label, {names[0]!r}; a classification needs two at the least")
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(" ".join(unicodedata.normalize("NFC", name).split()), name)
        if other != name:
            what = "blanks" if other.split() == name.split() else "how their characters are composed"
            raise InputError(f"{column}: the labels {other!r} and {name!r} differ in {what} only; write them alike")


def read_label(row: Mapping[str, Any], column: str) -> Any:
    """The one label of a row.

    Raises:
        RowError: there is none, or several.
    """
    given = value(row, column)
    if isinstance(given, str | bool | int):
        if isinstance(given, str) and not given.strip():
            raise RowError(column, EMPTY)
        return given
    if isinstance(given, float):
        if not math.isfinite(given):
            raise RowError(column, EMPTY if math.isnan(given) else f"holds {given}, which is no label")
        return given
    is_list = isinstance(given, Sequence) and not isinstance(given, bytes)
    kind = "list" if is_list else "table" if isinstance(given, Mapping) else type(given).__name__
    raise RowError(column, f"holds the {kind} {describe(given)}; peftkit has one label a row, a text or a number")


def match_label(given: Any, names: Sequence[str], column: str, *, numbered: bool) -> str:
    """Finds which label a row's value means.

    Args:
        given: what ``read_label`` returned.
        names: the labels' names.
        column: the column, for the message.
        numbered: whether numbers are the places of ``names``.

    Returns:
        One of the names.

    Raises:
        RowError: none is meant.
    """
    if numbered and not isinstance(given, bool):
        # A file's texts can be numbers only where no name is one: 1 would be a name as well as a place.
        is_place = isinstance(given, str) and PLACE.fullmatch(given) and not any(map(NUMBER.fullmatch, names))
        if isinstance(given, int) or is_place:
            if 0 <= int(given) < len(names):
                return names[int(given)]
            raise RowError(column, f"the label {given} is no number of {len(names)} labels, from 0")
    for spelling in _spellings(given):
        if spelling in names:
            return spelling
    near = did_you_mean(str(given), names)
    raise RowError(column, f"unknown label {given!r}{near}; labels: {listed(list(names))}")


def label_text(label: Any) -> str:
    """The name of a label that stands in the rows: as files write it."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def natural(name: str) -> tuple[Any, ...]:
    """A key that sorts numbers by size, also within texts: ``class 2`` before ``class 10``."""
    if NUMBER.fullmatch(name):
        return (0, float(name), name)
    parts = re.split(r"([0-9]+)", name)
    return (1, tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name)


def _spellings(given: Any) -> list[str]:
    if isinstance(given, bool):
        return [str(given).lower(), str(given)]
    if isinstance(given, float) and given.is_integer():
        return [str(given), str(int(given))]
    return [str(given), str(float(given))] if isinstance(given, int) and abs(given) < 2**53 else [str(given)]


def _labels(rows: Any, top: str, column: str) -> Iterator[Any]:
    """The label of each row, or the error that it is."""
    for batch in rows.select_columns([top]).iter(batch_size=10_000):
        for held in batch[top]:
            try:
                yield read_label({top: held}, column)
            except RowError as error:
                yield error


def _kind(label: Any) -> str:
    return "text" if isinstance(label, str) else "truth value" if isinstance(label, bool) else "number"
