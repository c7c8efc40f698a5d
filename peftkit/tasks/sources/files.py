"""Loads files of rows as datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.data_files import FORMATS, file_format, is_saved_dataset, read_parquet_table, read_rows, read_saved_dataset
from peftkit.errors import InputError, comma_separated, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset


def load_files(files: Mapping[str, Sequence[str]], *, streaming: bool = False) -> dict[str, Any]:
    """Loads the rows of each split.

    Args:
        files: Files of each split, in one format per split, or one folder that ``Dataset.save_to_disk`` wrote.
        streaming: Whether to stream the rows.

    Returns:
        A dataset for each split.

    Raises:
        InputError: A file does not exist, has an unsupported format, or is invalid.
    """
    return {split: _load(split, list(names), streaming=streaming) for split, names in files.items()}


@lru_cache(maxsize=64)
def count_rows(file: str, stamp: tuple[Any, ...]) -> int:
    """Returns the number of rows of a file, cached.

    Args:
        file: Path of the file.
        stamp: Cache key that changes when the file changes.
    """
    return sum(1 for _ in read_rows(file))


def digest(files: Sequence[str]) -> str:
    """Returns a hash of the contents of files, in order."""
    combined = hashlib.sha256()
    for name in files:
        with open(name, "rb") as file:
            combined.update(hashlib.file_digest(file, "sha256").digest())
        combined.update(str(file_format(Path(name))).encode())
    return combined.hexdigest()


def _load(split: str, names: list[str], *, streaming: bool) -> Any:
    if any(is_saved_dataset(Path(name)) for name in names):
        return _load_saved(split, names, streaming=streaming)
    for name in names:
        _check_readable(name)
    formats = {file_format(Path(name)) for name in names}
    if len(formats) > 1:
        raise InputError(f"path: the files of split {split!r} have different formats; convert them to one")
    if streaming:
        from datasets import IterableDataset

        features = _load_parquet(names, empty=True).features if formats == {"parquet"} else None
        return IterableDataset.from_generator(_stream_rows, features, gen_kwargs={"files": names})
    rows = _load_parquet(names) if formats == {"parquet"} else _read_all(names)
    if not len(rows):
        raise InputError(f"{', '.join(names)}: has no rows")
    return rows


def _read_all(names: Sequence[str]) -> Dataset:
    from peftkit.tasks.sources.arrow_columns import make_dataset

    return make_dataset(_stream_rows(names), fingerprint=digest(names)[:32])


def _stream_rows(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    for name in files:
        yield from read_rows(name)


def _load_saved(split: str, names: Sequence[str], *, streaming: bool) -> Any:
    if len(names) > 1:
        raise InputError(f"path: split {split!r} has a folder of save_to_disk and other paths; set one folder only")
    rows = read_saved_dataset(names[0])
    return rows.to_iterable_dataset() if streaming else rows


def _check_readable(name: str) -> None:
    path = Path(name)
    if path.is_dir():
        read_saved_dataset(name)  # raises with the reason
    if not path.is_file():
        siblings = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise InputError(f"path: there is no file {name!r}{did_you_mean(path.name, siblings)}")
    if file_format(path) is None:
        raise InputError(f"path: {name!r} has an unsupported extension; allowed: {comma_separated(list(FORMATS))}")


def _load_parquet(names: Sequence[str], *, empty: bool = False) -> Dataset:
    """Loads Parquet files, or only their schema; their columns must have the same types and label names."""
    import pyarrow as pa
    from datasets import Dataset

    tables = [(name, read_parquet_table(name, empty=empty)) for name in names]
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
    return Dataset(whole, fingerprint=digest(names)[:32])


def _names(feature: Any) -> str:
    return comma_separated(list(getattr(feature, "names", None) or ["none"]))
