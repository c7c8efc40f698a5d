"""Loads files of rows as datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from glob import has_magic
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.data_files import (
    DEFAULT_OPTIONS,
    FORMATS,
    FileOptions,
    disk_file,
    file_format,
    is_saved_dataset,
    read_parquet_table,
    read_rows,
    read_saved_dataset,
)
from peftkit.errors import DataError, InputError, comma_separated, similar_file

if TYPE_CHECKING:
    from datasets import Dataset


def load_files(
    files: Mapping[str, Sequence[str]],
    *,
    streaming: bool = False,
    max_rows: int | None = None,
    options: FileOptions = DEFAULT_OPTIONS,
) -> dict[str, Any]:
    """Loads the rows of each split.

    Args:
        files: Files of each split, in one format per split, or one folder that ``Dataset.save_to_disk`` wrote.
        streaming: Whether to stream the rows.
        max_rows: Maximum number of rows of each file; None for all.
        options: How the files are written, where their extension does not say it.

    Returns:
        A dataset for each split.

    Raises:
        InputError: A file does not exist, has an unsupported format, or is invalid.
    """
    return {
        split: _load(split, list(names), max_rows, streaming=streaming, options=options)
        for split, names in files.items()
    }


@lru_cache(maxsize=64)
def count_rows(
    file: str, stamp: tuple[Any, ...], max_rows: int | None = None, options: FileOptions = DEFAULT_OPTIONS
) -> int:
    """Returns the number of rows of a file, cached.

    Args:
        file: Path of the file.
        stamp: Cache key that changes when the file changes.
        max_rows: Number of rows after which counting ends; None to count all.
        options: How the file is written, where its extension does not say it.
    """
    return sum(1 for _ in islice(read_rows(file, options), max_rows))


def digest(files: Sequence[str], options: FileOptions = DEFAULT_OPTIONS) -> str:
    """Returns a hash of the contents of files, in order.

    Args:
        files: Paths of the files.
        options: How they are written, where their extension does not say it.
    """
    combined = hashlib.sha256()
    for name in files:
        with disk_file(name).open("rb") as file:
            combined.update(hashlib.file_digest(file, "sha256").digest())
        member = "" if Path(name).is_file() else name
        kind = None if options.form else file_format(Path(name))
        combined.update(str((member, kind, options)).encode())
    return combined.hexdigest()


def _load(split: str, names: list[str], max_rows: int | None, *, streaming: bool, options: FileOptions) -> Any:
    if any(is_saved_dataset(Path(name)) for name in names):
        return _load_saved(split, names, max_rows, streaming=streaming)
    for name in names:
        check_readable(name, options)
    formats = {"" if options.form else file_format(Path(name)) for name in names}
    if len(formats) > 1:
        raise DataError("path", f"the files of split {split!r} have different formats; convert them to one")
    if streaming:
        from datasets import IterableDataset

        features = _load_parquet(names, 0).features if formats == {"parquet"} else None
        return IterableDataset.from_generator(_stream_rows, features, gen_kwargs={"files": names, "options": options})
    rows = _load_parquet(names, max_rows) if formats == {"parquet"} else _read_all(names, max_rows, options)
    if not len(rows):
        raise InputError(f"{', '.join(names)}: has no rows")
    return rows


def _read_all(names: Sequence[str], max_rows: int | None, options: FileOptions) -> Dataset:
    from peftkit.tasks.sources.arrow_columns import make_dataset

    fingerprint = digest(names, options)[:32] if max_rows is None else None
    return make_dataset(_stream_rows(names, max_rows, options), fingerprint)


def _stream_rows(
    files: Sequence[str], max_rows: int | None = None, options: FileOptions = DEFAULT_OPTIONS
) -> Iterator[dict[str, Any]]:
    for name in files:
        yield from islice(read_rows(name, options), max_rows)


def _load_saved(split: str, names: Sequence[str], max_rows: int | None, *, streaming: bool) -> Any:
    if len(names) > 1:
        text = f"split {split!r} has a folder of save_to_disk and other paths; set one folder only"
        raise DataError("path", text)
    rows = read_saved_dataset(names[0], max_rows)
    return rows.to_iterable_dataset() if streaming else rows


def check_readable(name: str, options: FileOptions = DEFAULT_OPTIONS) -> None:
    """Checks that a path is a file of a supported format.

    Args:
        name: The path.
        options: How it is written; a file in a form of its own may have any extension.

    Raises:
        InputError: It is not.
    """
    path = disk_file(name)
    if path.is_dir():
        read_saved_dataset(name)  # raises with the reason
    if not path.is_file():
        siblings = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        pattern = f'; patterns are written as path = {{ glob = "{name}" }}' if has_magic(name) else ""
        raise DataError("path", f"there is no file {str(path)!r}{similar_file(path.name, siblings)}{pattern}")
    if file_format(Path(name)) is None and options.form is None:
        allowed = comma_separated(list(FORMATS))
        raise DataError("path", f"{name!r} has an unsupported extension; allowed: {allowed}")


def _load_parquet(names: Sequence[str], max_rows: int | None = None) -> Dataset:
    """Loads Parquet files, or only their first rows; their columns must have the same types and label names."""
    import pyarrow as pa
    from datasets import Dataset

    tables = [(name, read_parquet_table(name, max_rows)) for name in names]
    known: dict[str, tuple[str, Any]] = {}
    for name, table in tables:
        features = Dataset(table.slice(0, 0)).features
        for column, feature in features.items():
            first, other = known.setdefault(column, (name, feature))
            if getattr(other, "names", None) != getattr(feature, "names", None):
                raise InputError(
                    f"{name}: the label names of column {column!r} ({_names(feature)}) differ from those in {first} "
                    f"({_names(other)})"
                )
    try:
        whole = pa.concat_tables([table for _, table in tables], promote_options="default")
    except pa.ArrowException as error:
        raise InputError(f"{', '.join(names)}: columns have different types: {error}") from error
    return Dataset(whole, fingerprint=digest(names)[:32] if max_rows is None else None)


def _names(feature: Any) -> str:
    return comma_separated(list(getattr(feature, "names", None) or ["none"]))
