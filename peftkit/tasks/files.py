"""Rows of files as data sets: CSV, TSV, JSON, JSON Lines or Parquet, compressed or not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.data_files import FORMATS, file_format, is_saved, read_parquet_table, read_rows, read_saved
from peftkit.errors import InputError, did_you_mean, listed

if TYPE_CHECKING:
    from datasets import Dataset


def load_files(files: Mapping[str, Sequence[str]], *, streaming: bool = False) -> dict[str, Any]:
    """Reads the rows of each split.

    Args:
        files: the files of each split, which are all of one form; or one folder that ``save_to_disk`` wrote.
        streaming: whether they are read as they are needed.

    Returns:
        A data set for each split.

    Raises:
        InputError: a file is missing, is of no form that can be read, or cannot be parsed.
    """
    return {split: _load(split, list(names), streaming=streaming) for split, names in files.items()}


@lru_cache(maxsize=64)
def count_rows(file: str, stamp: tuple[Any, ...]) -> int:
    """Counts the rows of a file.

    Args:
        file: its path.
        stamp: what changes when the file does.
    """
    return sum(1 for _ in read_rows(file))


def digest(files: Sequence[str]) -> str:
    """A hash of the content of files, in their order."""
    combined = hashlib.sha256()
    for name in files:
        with open(name, "rb") as file:
            combined.update(hashlib.file_digest(file, "sha256").digest())
        combined.update(str(file_format(Path(name))).encode())
    return combined.hexdigest()


def _load(split: str, names: list[str], *, streaming: bool) -> Any:
    if any(is_saved(Path(name)) for name in names):
        return _saved(split, names, streaming=streaming)
    for name in names:
        _refuse_unreadable(name)
    formats = {file_format(Path(name)) for name in names}
    if len(formats) > 1:
        raise InputError(f"path: the files of split {split!r} have several forms; write them in one")
    if streaming:
        from datasets import IterableDataset

        features = _parquet(names, empty=True).features if formats == {"parquet"} else None
        return IterableDataset.from_generator(_stream, features, gen_kwargs={"files": names})
    rows = _parquet(names) if formats == {"parquet"} else _read_all(names)
    if not len(rows):
        raise InputError(f"{', '.join(names)}: has no rows")
    return rows


def _read_all(names: Sequence[str]) -> Dataset:
    from peftkit.tasks.columns import make_dataset

    return make_dataset(_stream(names), fingerprint=digest(names)[:32])


def _stream(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    for name in files:
        yield from read_rows(name)


def _saved(split: str, names: Sequence[str], *, streaming: bool) -> Any:
    if len(names) > 1:
        raise InputError(f"path: split {split!r} has a folder that save_to_disk wrote beside others; name one folder")
    rows = read_saved(names[0])
    return rows.to_iterable_dataset() if streaming else rows


def _refuse_unreadable(name: str) -> None:
    path = Path(name)
    if path.is_dir():
        read_saved(name)  # which says what the folder holds
    if not path.is_file():
        siblings = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise InputError(f"path: there is no file {name!r}{did_you_mean(path.name, siblings)}")
    if file_format(path) is None:
        raise InputError(f"path: {name!r} is of no form that can be read; allowed: {listed(list(FORMATS))}")


def _parquet(names: Sequence[str], *, empty: bool = False) -> Dataset:
    """The rows of Parquet files, or none of them, whose columns must have the same types and names of labels."""
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
                    f"{name}: the column {column!r} has other label names ({_names(feature)}) than in {first} "
                    f"({_names(other)}); write both with the same"
                )
    try:
        whole = pa.concat_tables([table for _, table in tables], promote_options="default")
    except pa.ArrowException as error:
        raise InputError(f"{', '.join(names)}: their columns differ in type: {error}") from error
    return Dataset(whole, fingerprint=digest(names)[:32])


def _names(feature: Any) -> str:
    return listed(list(getattr(feature, "names", None) or ["no names"]))
