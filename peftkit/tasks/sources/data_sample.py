"""Rows of a user's data, by column, from which tasks recognize data that they can use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import Any

from peftkit.data_files import (
    DEFAULT_OPTIONS,
    FileOptions,
    disk_file,
    file_format,
    guess_options,
    is_archive,
    normalize_member,
)
from peftkit.errors import InputError, similar_file
from peftkit.tasks.labels import feature_names
from peftkit.tasks.sources.data_source import SPLIT_NAMES, DataSource, files_of, is_local, stamp
from peftkit.tasks.sources.folders import Files
from peftkit.tasks.sources.split_loading import load_valid_splits

MOST_INCOMPLETE = 0.2
"""Largest share of rows without a value in a column that a task may use; such rows are skipped."""
SAMPLED_ROWS = 2000
"""Number of rows that are looked at."""
ROWS_PER_FILE = 200_000
"""Number of rows of each local file over which they are evenly spaced, since files may be sorted by label."""


@dataclass(frozen=True)
class Column:
    """A column of a sample.

    Attributes:
        name: Its name; a dot separates the field of a nested column.
        values: Its values that are not None.
        num_rows: Number of rows of the sample.
        label_names: The names of its numbers, if the data have them.
    """

    name: str
    values: Sequence[Any]
    num_rows: int
    label_names: tuple[str, ...] = ()

    @cached_property
    def is_complete(self) -> bool:
        """Whether few rows lack the value, which can be skipped."""
        return len(self.values) >= (1 - MOST_INCOMPLETE) * self.num_rows

    @cached_property
    def is_text(self) -> bool:
        """Whether all values are texts."""
        return bool(self.values) and all(isinstance(value, str) for value in self.values)

    @cached_property
    def is_varied_text(self) -> bool:
        """Whether the values are texts, and not all the same."""
        return self.is_text and self.distinct > 1

    @cached_property
    def is_text_list(self) -> bool:
        """Whether all values are lists of texts, and some are not empty."""
        lists = self.is_list and all(isinstance(each, str) for value in self.values for each in value)
        return lists and any(self.values)

    @cached_property
    def is_list(self) -> bool:
        """Whether all values are lists of texts or numbers."""
        return bool(self.values) and all(
            isinstance(value, list) and all(isinstance(each, str | int | float) for each in value)
            for value in self.values
        )

    @cached_property
    def is_scalar(self) -> bool:
        """Whether all values are texts, numbers or truth values."""
        return bool(self.values) and all(isinstance(value, str | int | float) for value in self.values)

    @cached_property
    def is_number(self) -> bool:
        """Whether all values are numbers, or texts of numbers."""
        return bool(self.values) and all(map(_is_number, self.values))

    @cached_property
    def numbers(self) -> Sequence[float]:
        """The values of a column of numbers."""
        return [float(value) for value in self.values]

    @cached_property
    def distinct(self) -> int:
        """The number of different values; of lists, of different elements."""
        if self.is_list:
            return len({str(each) for value in self.values for each in value})
        return len({str(value) for value in self.values})

    @cached_property
    def mean_words(self) -> float:
        """The mean number of words of a text."""
        return sum(len(str(value).split()) for value in self.values) / max(1, len(self.values))


@dataclass(frozen=True)
class DataSample:
    """Some rows of the training split, and which splits there are.

    Attributes:
        columns: The columns by name.
        splits: The splits that the data have.
        num_rows: Number of rows of the sample.
        file_options: The options that read the files, where their extension does not say it.
        format: The format of the training files; None if they are not known.
        path: The path of the data.
    """

    columns: Mapping[str, Column]
    splits: frozenset[str]
    num_rows: int
    file_options: Mapping[str, Any] = field(default_factory=dict)
    format: str | None = None
    path: str = ""

    def find(self, names: Sequence[str], kind: str = "is_text") -> str | None:
        """Return the first column with one of some names, ignoring case, of a kind; None if there is none.

        Args:
            names: The names, the best first.
            kind: The property that the column must have, such as ``is_text``.
        """
        by_name = {name.lower(): column for name, column in self.columns.items()}
        matches = (by_name[name] for name in names if name in by_name)
        return next((column.name for column in matches if getattr(column, kind)), None)

    def longest_text(self, without: Sequence[str] = ()) -> str | None:
        """Return the column with the longest texts; None if none has texts.

        Args:
            without: Columns to leave out.
        """
        texts = [c for c in self.columns.values() if c.is_text and c.is_complete and c.name not in without]
        return max(texts, key=lambda column: column.mean_words).name if texts else None


def read_sample(path: str) -> DataSample:
    """Read some rows of a file, a folder or a hub dataset; cached until its files change.

    Args:
        path: The path, as in a recipe.

    Raises:
        InputError: There are no such data, or they cannot be read.
    """
    name = normalize_member(path)
    source = DataSource(path=_source_path(path), rows_per_file=ROWS_PER_FILE)
    if not is_local(source):
        source = DataSource(path=name, sample=SAMPLED_ROWS, streaming=True)
        return _read_sample(source, stamp(source))
    file = disk_file(name)
    if isinstance(source.path, str) and not file.exists():
        siblings = [each.name for each in file.parent.iterdir()] if file.parent.is_dir() else []
        raise InputError(f"there is no file or folder {str(file)!r}{similar_file(file.name, siblings)}")
    if file.is_file() and not is_archive(name) and file_format(Path(name)) is None:
        raise InputError(f"{path!r} has an unsupported extension; use CSV, TSV, JSON, JSONL, Parquet or text")
    files = [each for _, names in files_of(source) for each in names]
    if files and not Path(files[0]).is_dir():
        source = replace(source, options=guess_options(files[0]))
    return replace(_read_sample(source, stamp(source)), path=path)


def path_option(path: str) -> str | dict[str, str]:
    """Return a path as a recipe names it: a pattern, such as ``reviews/*.csv``, as a table.

    Args:
        path: The path of the data, or a pattern.
    """
    return {"glob": path} if matching_files(path) else path


def matching_files(path: str) -> tuple[str, ...]:
    """Return the files that a pattern matches, sorted; empty if it is the path of a file or folder.

    Args:
        path: The path of the data, or a pattern.
    """
    if not has_magic(path) or disk_file(normalize_member(path)).exists():
        return ()
    return tuple(sorted(name for name in glob(path, recursive=True) if Path(name).is_file()))


def local_splits(path: str, options: FileOptions = DEFAULT_OPTIONS) -> frozenset[str]:
    """Return the splits that a file or folder has by the names of its files.

    Args:
        path: The path.
        options: How the files are written.
    """
    return _known_splits(split for split, _ in _files_on_disk(path, options))


def local_files(path: str, options: FileOptions = DEFAULT_OPTIONS) -> list[str]:
    """Return the files of all splits of a file or folder, those of the training split first.

    Args:
        path: The path.
        options: How the files are written.
    """
    known = {name: number for number, names in enumerate(SPLIT_NAMES.values()) for name in names}
    splits = sorted((pair for pair in _files_on_disk(path, options) if pair[0] in known), key=lambda p: known[p[0]])
    return [name for _, names in splits for name in names if not Path(name).is_dir()]


def _source_path(path: str) -> str | Files:
    files = matching_files(path)
    return (("train", files),) if files else normalize_member(path)


def _files_on_disk(path: str, options: FileOptions) -> Files:
    name = _source_path(path)
    if isinstance(name, str) and not disk_file(name).exists():
        return ()
    try:
        return files_of(DataSource(path=name, options=options))
    except InputError:  # an archive without such files
        return ()


def held_out_options(splits: Iterable[str]) -> dict[str, float]:
    """Return the options that hold out the splits that data lack.

    Args:
        splits: The splits that they have.
    """
    available = {*splits}
    return {f"{split}_fraction": 0.1 for split in ("dev", "test") if split not in available}


def _known_splits(names: Iterable[str]) -> frozenset[str]:
    available = {*names}
    return frozenset(split for split, known in SPLIT_NAMES.items() if available & {*known})


@lru_cache(maxsize=4)
def _read_sample(source: DataSource, key: tuple[Any, ...]) -> DataSample:
    loaded = load_valid_splits(source)
    if "train" not in loaded.splits:
        raise loaded.problems[0] if loaded.problems else InputError(f"{source.path!r} has no training rows")
    rows: Any = loaded.splits["train"]
    head = _evenly_spaced(rows)
    values: dict[str, list[Any]] = {}
    for row in head:
        for name, value in _flatten(row):
            values.setdefault(name, []).append(value)
    columns = {
        name: Column(
            name, [value for value in column if not _is_missing(value)], len(head), feature_names(rows.features, name)
        )
        for name, column in values.items()
    }
    files = dict(files_of(source))
    splits = _known_splits({*files, *loaded.origins.values()})
    train = files.get(loaded.origins["train"], ())
    form = file_format(Path(train[0])) if train else None
    options = {option: value for option in FileOptions.FORMATS if (value := getattr(source.options, option))}
    return DataSample(columns, splits, len(head), options, form)


def _evenly_spaced(rows: Any) -> list[Mapping[str, Any]]:
    """Returns rows of all parts of a split; the first ones of a stream."""
    if not hasattr(rows, "__len__") or len(rows) <= SAMPLED_ROWS:
        return list(islice(rows, SAMPLED_ROWS))
    step = len(rows) / SAMPLED_ROWS
    return list(rows.select([int(number * step) for number in range(SAMPLED_ROWS)]))


def _flatten(row: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the values of a row by column; those of nested columns by dotted names."""
    flat: list[tuple[str, Any]] = []
    for name, value in row.items():
        if prefix == "" and name.startswith("\x1f"):
            continue
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, value))
    return flat


def _is_missing(value: Any) -> bool:
    """Returns whether a row lacks a value; pandas writes such numbers as NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
