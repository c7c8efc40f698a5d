"""What names the rows of a task: a path and how its rows are split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftkit.data_files import DelimitedFormat, FileLayout, file_format
from peftkit.errors import DataError, InputError
from peftkit.tasks.sources.folders import Files, files_by_split

SPLIT_NAMES = {"train": ("train", "training"), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
"""Default names of the splits in a data source."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class DataSource:
    """Where to load rows from and how to split them; equal data sources yield equal rows."""

    path: str | Files
    """Hub id, file or folder; or the files of each split."""
    config: str | None = None
    revision: str | None = None
    names: tuple[str | None, ...] = (None, None, None)
    """Names of the splits for train, dev and test; None for the default names."""
    dev_fraction: float | None = None
    test_fraction: float | None = None
    stratify: str | None = None
    """Column that held-out rows are stratified by."""
    seed: int = 42
    max_rows: int | None = None
    streaming: bool = False
    sizes: tuple[tuple[str, int], ...] = ()
    """Expected number of rows by split."""
    sample: int | None = None
    """Number of training rows to load, without other splits; None to load all splits."""
    rows_per_file: int | None = None
    """Number of rows of each file to load, to check the data; None for all rows."""
    form: FileLayout | None = None
    """The form of the files; None for that of their extension."""
    delimited: DelimitedFormat | None = None
    """How CSV and TSV files are written, where it differs from their extension."""
    data_dir: str = ""
    """Folder of the files in a hub dataset; empty for all."""
    only: str | None = None
    """The only one of train, dev and test that is loaded; None for all of them."""

    @property
    def main_split(self) -> str:
        """The split whose labels are those of the task: train, or the only one."""
        return self.only or "train"

    @property
    def layout(self) -> FileLayout | DelimitedFormat | None:
        """How files are written, where their extension does not say it."""
        return self.form or self.delimited


def files_of(source: DataSource) -> Files:
    """Returns the files of each split; empty if they are not known by their names."""
    if not isinstance(source.path, str):
        return source.path
    known = {name for names in SPLIT_NAMES.values() for name in names}
    extensions = source.form.extensions if source.form else ()
    return files_by_split(Path(source.path), source.config, known, extensions)


def is_local(source: DataSource) -> bool:
    """Returns whether a data source is on this machine, or can only be meant to be."""
    if not isinstance(source.path, str) or Path(source.path).exists() or not HUB_NAME.fullmatch(source.path):
        return True
    return is_missing_file(source.path)


def is_missing_file(path: str) -> bool:
    """Returns whether a path is that of a file which does not exist, in a folder that does."""
    file = Path(path)
    return file_format(file) is not None and not file.exists() and file.parent.is_dir()


def describe(source: DataSource) -> str:
    """Describes a data source by its path, or its files."""
    if isinstance(source.path, str):
        return f"{source.path!r}" + (f" ({source.config})" if source.config else "")
    return ", ".join(file for _, files in source.path for file in files)


def stamp(source: DataSource) -> tuple[Any, ...]:
    """Returns a cache key of the source's files, which changes when a file changes.

    It includes ``st_ctime``, which copying with preserved modification times does not keep.
    """
    if isinstance(source.path, str):
        path = Path(source.path)
        files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    else:
        paths = [Path(name) for _, names in source.path for name in names]
        files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    stats = ((str(file), file.stat()) for file in files if file.is_file())
    return tuple((name, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_size) for name, s in stats)


def check_layout(source: DataSource, files: Mapping[str, Sequence[str]]) -> None:
    """Raises if options of CSV and TSV files are set, but there are none.

    Args:
        source: The data source.
        files: The files of each split.

    Raises:
        DataError: An option has no effect.
    """
    if isinstance(source.path, str) and is_missing_file(source.path):  # reported when it is read
        return
    formats = {file_format(Path(name)) for names in files.values() for name in names}
    if source.delimited is None or formats & {"csv", "tsv"}:
        return
    for option, value in asdict(source.delimited).items():
        if value is not None:
            raise DataError(option, f"has no effect, because {describe(source)} has no CSV or TSV files; remove it")


def check_sizes(source: DataSource, splits: Mapping[str, Any]) -> None:
    """Raises if splits differ from their published sizes.

    Args:
        source: The data source.
        splits: The rows of each split.

    Raises:
        InputError: A split has another size, or does not exist.
    """
    from datasets import Dataset

    for name, size in source.sizes:
        rows = splits.get(name)
        if isinstance(rows, Dataset) and len(rows) != size:
            raise InputError(
                f"{describe(source)} has {len(rows):,} rows in split {name!r}, but {size:,} were published; clear the "
                "cache of the dataset, or set path to other files"
            )
        if rows is None:
            raise InputError(f"{describe(source)} has no split {name!r}, which was published with {size:,} rows")
