"""Reads the label of a row, and finds the names of all labels."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from peftkit.errors import InputError, RowError, comma_separated, did_you_mean
from peftkit.tasks.columns import EMPTY, get_value, short_repr, visible_columns
from peftkit.tasks.sources import split_loading
from peftkit.tasks.sources.data_source import DataSource

NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
INDEX = re.compile(r"0|[1-9][0-9]*")

MAX_LABELS = 20
"""The most labels that an error message lists."""


@dataclass(frozen=True)
class LabelNames:
    """The names of the labels of a data source.

    Attributes:
        names: The names, in the order of their numbers.
        numbered: Whether the values are indices of names.
        only_in: The split of each label that the training rows lack, and that no dataset's features name.
    """

    names: tuple[str, ...]
    numbered: bool
    only_in: Mapping[str, str] = field(default_factory=dict)


@lru_cache(maxsize=8)
def find_label_names(
    source: DataSource,
    column: str,
    *,
    skip_invalid: bool = False,
    mapping: tuple[tuple[str, str], ...] = (),
    ignored: tuple[Any, ...] = (),
) -> LabelNames:
    """Finds the names of the labels of a data source.

    Args:
        source: The data source.
        column: Column of the label; dots select nested fields.
        skip_invalid: Whether rows without one label are left out.
        mapping: The names of labels.
        ignored: Labels of rows that are left out.

    Returns:
        The label names of the dataset's features, or else the labels of all splits in natural order.

    Raises:
        InputError: The column does not exist, a row does not have one label, or texts and numbers are mixed in a split.
    """
    loaded = split_loading.load_valid_splits(source)
    if source.main_split not in loaded.splits:
        raise loaded.problems[0].with_traceback(None)
    renamed = dict(mapping)
    train: Any = loaded.splits[source.main_split]
    if names := feature_names(train.features, column):
        if not mapping and not ignored:
            return LabelNames(names, numbered=True)
        kept = [name for i, name in enumerate(names) if not is_ignored(i, ignored) and not is_ignored(name, ignored)]
        mapped = [renamed.get(name) or renamed.get(str(names.index(name))) or name for name in kept]
        return LabelNames(tuple(dict.fromkeys(mapped)), numbered=False)
    seen: dict[str, str] = {}
    for split, rows in loaded.splits.items():
        top = column if column in rows.column_names else column.split(".")[0]
        if top not in rows.column_names:
            if split != source.main_split:  # reported with the columns
                continue
            raise missing_column_error(rows, column)
        for label in _distinct_labels(source, split, rows, column, skip_invalid=skip_invalid, ignored=ignored):
            name = map_label(label, renamed)
            if not any(spelling in seen for spelling in _spellings(name)):
                seen[label_name(name)] = split
    only_in = {name: split for name, split in seen.items() if split != source.main_split}
    return LabelNames(tuple(sorted(seen, key=natural_sort_key)), numbered=False, only_in=only_in)


def missing_column_error(rows: Any, column: str) -> InputError:
    """Build the error for training rows without a column whose values a model's outputs depend on.

    Args:
        rows: The training rows.
        column: The column.
    """
    known = visible_columns(rows.column_names)
    text = f"there is no column {column!r}{did_you_mean(column, known)}; columns of the training rows: "
    return InputError(f"{text}{comma_separated(known)}")


def _distinct_labels(
    source: DataSource, split: str, rows: Any, column: str, *, skip_invalid: bool, ignored: tuple[Any, ...]
) -> list[Any]:
    """Returns the different labels of a split, which must be of one type."""
    if names := feature_names(rows.features, column):  # as the training rows may have texts
        return list(names)
    top = column if column in rows.column_names else column.split(".")[0]
    first: tuple[int, str] | None = None
    empty: InputError | None = None
    labels: dict[Any, None] = {}
    for index, label in enumerate(_labels(rows, top, column)):
        if isinstance(label, RowError):
            error = InputError(f"{split_loading.row_location(source, split, index)}: {label}")
            if skip_invalid or label.text == EMPTY:  # an error only if the row is used
                empty = empty or error
                continue
            raise error from label
        if is_ignored(label, ignored):
            continue
        kind = _kind(label)
        if first is None:
            first = index, kind
        elif kind != first[1]:
            other = split_loading.row_location(source, split, first[0])
            raise InputError(
                f"{split_loading.row_location(source, split, index)}: {column}: the label {short_repr(label)} is a "
                f"{kind}, but the label of {other} is a {first[1]}; use one type for all labels"
            )
        labels[label] = None
    if split == "train" and empty and len(labels) < 2:
        raise empty
    return list(labels)


def map_label(label: Any, mapping: Mapping[str, str]) -> Any:
    """Returns the name that a mapping gives a label; the label itself without one.

    Args:
        label: The label.
        mapping: The names of labels.
    """
    return next((mapping[spelling] for spelling in _spellings(label) if spelling in mapping), label)


@lru_cache(maxsize=8)
def find_unmatched_label(source: DataSource, column: str, entries: tuple[Any, ...]) -> str | None:
    """Describes the first entry of an option that names no label of the rows; None if each names one.

    Args:
        source: The data source; nothing is known about one of which rows were left out.
        column: Column of the label; dots select nested fields.
        entries: Labels, or texts of labels.
    """
    loaded = split_loading.load_valid_splits(source)
    if source.streaming or loaded.cut or not entries:
        return None
    known: dict[str, str] = {}
    for rows in loaded.splits.values():
        names = feature_names(rows.features, column)
        top = column if column in rows.column_names else column.split(".")[0]
        labels = _labels(rows, top, column) if top in rows.column_names else ()
        valid = (label for label in labels if not isinstance(label, RowError))
        for label in dict.fromkeys([*names, *range(len(names)), *valid]):
            for spelling in _spellings(label):
                known.setdefault(spelling, label_name(label))
    unmatched = next((name for entry in entries if (name := label_name(entry)) not in known), None)
    if unmatched is None:
        return None
    near = did_you_mean(unmatched, known)
    shown = comma_separated([*dict.fromkeys(known.values())][:MAX_LABELS])
    return f"no row has the label {unmatched!r}{near}; labels: {shown}"


def is_ignored(label: Any, ignored: Sequence[Any]) -> bool:
    """Returns whether a label is one of those whose rows are left out.

    Args:
        label: The label.
        ignored: These labels.
    """
    return bool(ignored) and any(spelling in map(label_name, ignored) for spelling in _spellings(label))


def feature_names(features: Mapping[str, Any] | None, column: str) -> tuple[str, ...]:
    """Returns the label names of a column in a dataset's features; empty if there are none.

    Args:
        features: The features of the dataset.
        column: Name of the column; dots select nested fields.
    """
    feature: Any = features or {}
    for part in [column] if column in feature else column.split("."):
        feature = feature.get(part) if isinstance(feature, Mapping) else None
    feature = getattr(feature, "feature", feature)  # of the elements of a list
    return tuple(getattr(feature, "names", None) or ())


@lru_cache(maxsize=8)
def train_feature_names(source: DataSource, column: str) -> tuple[str, ...]:
    """Returns the label names of a column in the features of a data source's training rows; empty if there are none.

    Args:
        source: The data source.
        column: Name of the column; dots select nested fields.
    """
    train: Any = split_loading.load_valid_splits(source).splits.get(source.main_split)
    return () if train is None else feature_names(train.features, column)


def check_label_order(splits: Mapping[str, Any], column: str, names: Sequence[str], origin: str) -> None:
    """Checks that all splits number their labels in the same order.

    Args:
        splits: The rows of each split.
        column: Column of the label.
        names: The expected order of the label names.
        origin: Where the expected order comes from, for error messages.

    Raises:
        InputError: A split has a label name at another number.
    """
    for split, rows in splits.items():
        known = feature_names(rows.features, column)
        for number, name in enumerate(known):
            if name in names and (number >= len(names) or names[number] != name):
                raise InputError(
                    f"{column}: the label {name!r} is number {number} in split {split!r}, but number "
                    f"{list(names).index(name)} in {origin}; use one order: {comma_separated(known)}"
                )


def check_label_names(names: Sequence[str], column: str) -> None:
    """Checks that there are at least two labels and that they look different.

    Args:
        names: The label names.
        column: Column of the label, for error messages.

    Raises:
        InputError: There are fewer than two labels, or two of them differ only in whitespace or Unicode normalization.
    """
    if len(names) < 2:
        if not names:
            raise InputError(f"{column}: has no label; at least 2 are required")
        raise InputError(f"{column}: has one label, {names[0]!r}; at least 2 are required")
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(" ".join(unicodedata.normalize("NFC", name).split()), name)
        if other != name:
            difference = "whitespace" if other.split() == name.split() else "Unicode normalization"
            raise InputError(f"{column}: the labels {other!r} and {name!r} differ only in {difference}; unify them")


def read_label(row: Mapping[str, Any], column: str) -> Any:
    """Returns the label of a row.

    Args:
        row: The row.
        column: Column of the label; dots select nested fields.

    Returns:
        A text, number or boolean.

    Raises:
        RowError: The row has no label, or several.
    """
    label = get_value(row, column)
    if isinstance(label, str | bool | int):
        if isinstance(label, str) and not label.strip():
            raise RowError(column, EMPTY)
        return label
    if isinstance(label, float):
        if not math.isfinite(label):
            raise RowError(column, EMPTY if math.isnan(label) else f"must be a label, not {label}")
        return label
    is_list = isinstance(label, Sequence) and not isinstance(label, bytes)
    kind = "list" if is_list else "table" if isinstance(label, Mapping) else type(label).__name__
    raise RowError(column, f"must be one label, a text or a number, not the {kind} {short_repr(label)}")


def match_label(label: Any, names: Sequence[str], column: str, *, numbered: bool) -> str:
    """Returns the name of a row's label.

    Args:
        label: The label from ``read_label``.
        names: The label names.
        column: Column of the label, for error messages.
        numbered: Whether numbers are indices into ``names``.

    Returns:
        One of the names.

    Raises:
        RowError: The label is unknown.
    """
    if numbered and not isinstance(label, bool):
        # Texts are indices only if no name is a number, because "1" could be a name too.
        is_index = isinstance(label, str) and INDEX.fullmatch(label) and not any(map(NUMBER.fullmatch, names))
        if isinstance(label, int) or is_index:
            if 0 <= int(label) < len(names):
                return names[int(label)]
            raise RowError(column, f"the label {label} is out of range for {len(names)} labels, counted from 0")
    for spelling in _spellings(label):
        if spelling in names:
            return spelling
    near = did_you_mean(str(label), names)
    raise RowError(column, f"unknown label {label!r}{near}; labels: {comma_separated(list(names))}")


def label_name(label: Any) -> str:
    """Returns the name of a label from the rows; booleans are lower-case, as in files."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def natural_sort_key(name: str) -> tuple[Any, ...]:
    """Returns a sort key that orders numbers by value, also within texts: ``class 2`` before ``class 10``."""
    if NUMBER.fullmatch(name):
        return (0, float(name), name)
    parts = re.split(r"([0-9]+)", name)
    return (1, tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name)


def _spellings(label: Any) -> list[str]:
    if isinstance(label, bool):
        return [str(label).lower(), str(label)]
    if isinstance(label, float) and label.is_integer():
        return [str(label), str(int(label))]
    return [str(label), str(float(label))] if isinstance(label, int) and abs(label) < 2**53 else [str(label)]


def _labels(rows: Any, top: str, column: str) -> Iterator[Any]:
    """Yields the label of each row, or the error for a row without valid label."""
    for batch in rows.select_columns([top]).iter(batch_size=10_000):
        for content in batch[top]:
            try:
                yield read_label({top: content}, column)
            except RowError as error:
                yield error


def _kind(label: Any) -> str:
    return "text" if isinstance(label, str) else "boolean" if isinstance(label, bool) else "number"
