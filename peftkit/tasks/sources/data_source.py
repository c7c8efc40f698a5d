"""What names the rows of a task: a path and how its rows are split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.data_files import (
    DEFAULT_OPTIONS,
    FileOptions,
    data_name,
    disk_file,
    file_format,
    find_data_files,
    is_archive,
    only_data_file,
    split_member,
)
from peftkit.errors import DataError, InputError
from peftkit.tasks.sources.folders import Files, files_by_split, group_by_split
from peftkit.tasks.sources.row_groups import RowGroups

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
    options: FileOptions = DEFAULT_OPTIONS
    """How the files are written, where their extension does not say it."""
    data_dir: str = ""
    """Folder of the files in a hub dataset; empty for all."""
    groups: RowGroups | None = None
    """Which rows are held out together; None if each may be held out alone."""
    only: str | None = None
    """The only one of train, dev and test that is loaded; None for all of them."""

    @property
    def main_split(self) -> str:
        """The split whose labels are those of the task: train, or the only one."""
        return self.only or "train"


def files_of(source: DataSource) -> Files:
    """Returns the files of each split; empty if they are not known by their names.

    Raises:
        InputError: A zip archive has no data file, or several, and their names do not say to which splits they belong.
    """
    if not isinstance(source.path, str):
        return tuple(
            (split, tuple(only_data_file(name, source.options) if is_archive(name) else name for name in names))
            for split, names in source.path
        )
    known = {name for names in SPLIT_NAMES.values() for name in names}
    if split_member(source.path)[1] is not None:
        return (("train", (source.path,)),)
    if is_archive(source.path):
        files = find_data_files(source.path, source.options)
        by_split = group_by_split(files)
        if len(files) > 1 and any(name in known for name, _ in by_split):
            return by_split
        return (("train", (only_data_file(source.path, source.options),)),)
    extensions = source.options.form.extensions if source.options.form else ()
    return files_by_split(Path(source.path), source.config, known, extensions)


def is_local(source: DataSource) -> bool:
    """Returns whether a data source is on this machine, or can only be meant to be."""
    if not isinstance(source.path, str) or Path(source.path).exists() or not HUB_NAME.fullmatch(source.path):
        return True
    return is_missing_file(source.path)


def is_missing_file(path: str) -> bool:
    """Returns whether a path is that of a file which does not exist, in a folder that does."""
    file = disk_file(path)
    return (
        (file_format(file) is not None or file.suffix.lower() == ".zip") and not file.exists() and file.parent.is_dir()
    )


def describe(source: DataSource) -> str:
    """Describes a data source by its path, or its files."""
    if isinstance(source.path, str):
        return f"{source.path!r}" + (f" ({source.config})" if source.config else "")
    return ", ".join(data_name(file) for _, files in source.path for file in files)


def stamp(source: DataSource) -> tuple[Any, ...]:
    """Returns a cache key of the source's files, which changes when a file changes.

    It includes ``st_ctime``, which copying with preserved modification times does not keep.
    """
    if isinstance(source.path, str):
        path = disk_file(source.path)
        files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    else:
        paths = [disk_file(name) for _, names in source.path for name in names]
        files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    stats = ((str(file), file.stat()) for file in files if file.is_file())
    return tuple((name, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_size) for name, s in stats)


def check_options(source: DataSource, files: Mapping[str, Sequence[str]]) -> None:
    """Raises if an option says how files are written, but there are no such files.

    Args:
        source: The data source.
        files: The files of each split.

    Raises:
        DataError: An option has no effect.
    """
    if isinstance(source.path, str) and is_missing_file(source.path):  # reported when it is read
        return
    names = [Path(name) for each in files.values() for name in each]
    if source.options.form is not None and not (names and all(map(_is_text_file, names))):
        what = "has no files of text" if names else "is read by the datasets library"
        raise DataError("file_format", f"has no effect, because {describe(source)} {what}; remove it")
    for option, missing in source.options.without_effect({file_format(name) for name in names}):
        raise DataError(option, f"has no effect, because {describe(source)} has no {missing} files; remove it")


def _is_text_file(file: Path) -> bool:
    return not file.is_dir() and file_format(file) != "parquet"


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
