"""The first rows of a user's data, by column, from which tasks recognize data that they can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from peftkit.data_files import file_format
from peftkit.errors import InputError, similar_file
from peftkit.tasks.sources.data_source import SPLIT_NAMES, DataSource, files_of, is_local, stamp
from peftkit.tasks.sources.split_loading import load_valid_splits

SAMPLED_ROWS = 2000
"""Number of rows of each file that are looked at."""


@dataclass(frozen=True)
class Column:
    """A column of a sample.

    Attributes:
        name: Its name; a dot separates the field of a nested column.
        values: Its values that are not None.
        num_rows: Number of rows of the sample.
    """

    name: str
    values: Sequence[Any]
    num_rows: int

    @cached_property
    def is_complete(self) -> bool:
        """Whether no row lacks the value."""
        return len(self.values) == self.num_rows

    @cached_property
    def is_text(self) -> bool:
        """Whether all values are texts."""
        return bool(self.values) and all(isinstance(value, str) for value in self.values)

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
    """The first rows of the training split, and which splits there are.

    Attributes:
        columns: The columns by name.
        splits: The splits that the data have.
        num_rows: Number of rows of the sample.
    """

    columns: Mapping[str, Column]
    splits: frozenset[str]
    num_rows: int

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
    """Read the first rows of a file, a folder or a hub dataset; cached until its files change.

    Args:
        path: The path, as in a recipe.

    Raises:
        InputError: There are no such data, or they cannot be read.
    """
    source = DataSource(path=path, rows_per_file=SAMPLED_ROWS)
    if not is_local(source):
        source = DataSource(path=path, sample=SAMPLED_ROWS, streaming=True)
    elif not Path(path).exists():
        folder = Path(path).parent
        siblings = [each.name for each in folder.iterdir()] if folder.is_dir() else []
        raise InputError(f"there is no file or folder {path!r}{similar_file(Path(path).name, siblings)}")
    elif Path(path).is_file() and file_format(Path(path)) is None:
        raise InputError(f"{path!r} has an unsupported extension; use CSV, TSV, JSON, JSONL or Parquet")
    return _read_sample(source, stamp(source))


@lru_cache(maxsize=4)
def _read_sample(source: DataSource, key: tuple[Any, ...]) -> DataSample:
    loaded = load_valid_splits(source)
    if "train" not in loaded.splits:
        raise loaded.problems[0] if loaded.problems else InputError(f"{source.path!r} has no training rows")
    rows: Any = loaded.splits["train"]
    head = list(islice(rows, SAMPLED_ROWS))
    values: dict[str, list[Any]] = {}
    for row in head:
        for name, value in _flatten(row):
            values.setdefault(name, []).append(value)
    columns = {
        name: Column(name, [value for value in column if value is not None], len(head))
        for name, column in values.items()
    }
    names = {split for split, _ in files_of(source)} | {*loaded.origins.values()}
    splits = frozenset(split for split, known in SPLIT_NAMES.items() if names & {*known})
    return DataSample(columns, splits, len(head))


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


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return True
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
