"""Stores pandas and ``datasets`` objects as Parquet files, so that a recipe can name them.

Runs are resumed, verified and repeated from a recipe alone, so its data must be files. They are named by their content.
"""

from __future__ import annotations

import hashlib
import os
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.cache_folder import cache_folder
from peftkit.data_files.parquet import ipc_bytes, make_plain
from peftkit.errors import InputError, comma_separated, summarize_error

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = {"train": "train", "training": "train", "dev": "dev", "validation": "dev", "valid": "dev", "test": "test"}
"""The split by the names that data give it."""
_NAMES: dict[str, str] = {}
"""The objects of this process by their files."""


def is_data_object(value: Any) -> bool:
    """Returns whether a value is a DataFrame or a dataset, or has one for each split."""
    if isinstance(value, Mapping):
        return bool(value) and all(is_data_object(each) for each in value.values())
    return _is_instance(value, "pandas", "DataFrame") or _is_instance(value, "datasets", "Dataset", "IterableDataset")


def store_data_object(data: Any, argument: str = "data") -> dict[str, str]:
    """Writes an object to Parquet files in the cache folder, named by its content.

    Args:
        data: A DataFrame or a ``Dataset``, which is used for train, or one for each split, as in a ``DatasetDict``.
        argument: Name of the argument, for error messages.

    Returns:
        The file of each split: train, dev or test.

    Raises:
        InputError: It is no such object, or cannot be written as Parquet.
    """
    if not is_data_object(data):
        kinds = "a DataFrame, a datasets.Dataset, or one for each split"
        raise InputError(f"{argument}: must be {kinds}, not {reprlib.repr(data)}")
    splits: dict[str, str] = {}
    for name, rows in data.items() if isinstance(data, Mapping) else [("train", data)]:
        split = SPLITS.get(str(name))
        if split is None or split in splits:
            problem = "is unknown" if split is None else f"is {split}, like another one"
            raise InputError(f"{argument}: the split {name!r} {problem}; name the splits train, dev and test")
        splits[split] = _store(rows, split, f"{argument}[{name!r}]" if isinstance(data, Mapping) else argument)
    return splits


def data_name(file: str) -> str:
    """Returns what messages call a file of rows: its path, or the object that is stored in it.

    Args:
        file: Path of the file.
    """
    path = Path(file)
    if file not in _NAMES and path.parent.parent == cache_folder() / "data":  # stored by another process
        return f"the object for {path.stem} that is stored in {file}"
    return _NAMES.get(file, file)


def _is_instance(value: Any, module: str, *classes: str) -> bool:
    """Returns whether a value is of a class, without importing its module: it has been if there is such a value."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, tuple(getattr(loaded, name) for name in classes))


def _store(rows: Any, split: str, place: str) -> str:
    table = _table_of(rows, place)
    table = table.take(list(range(len(table))))  # a part of a table shares its memory
    content = hashlib.sha256(ipc_bytes(table) + str(table.schema.metadata).encode()).hexdigest()[:32]
    file = cache_folder() / "data" / content / f"{split}.parquet"
    if not file.is_file():
        import pyarrow.parquet as pq

        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, temporary)
            temporary.replace(file)
        except OSError as error:
            raise InputError(f"{place}: cannot be written to {file} ({error.strerror or error})") from error
    _NAMES[str(file)] = f"the {type(rows).__name__} {place}"
    return str(file)


def _table_of(rows: Any, place: str) -> pa.Table:
    import pyarrow as pa

    if _is_instance(rows, "datasets", "IterableDataset"):
        raise InputError(
            f"{place}: is a stream, which cannot be stored; set task.path to its files, and task.streaming"
        )
    if not len(rows):
        raise InputError(f"{place}: has no rows")
    if _is_instance(rows, "datasets", "Dataset"):
        rows = rows.with_format(None)
        table = rows.with_format("arrow")[:]
        return table.replace_schema_metadata(rows.features.arrow_schema.metadata)  # has the names of labels
    columns = [*rows.columns]
    if wrong := [column for column in columns if not isinstance(column, str) or columns.count(column) > 1]:
        raise InputError(
            f"{place}: columns need different names that are texts, not {comma_separated([*map(repr, wrong)])}"
        )
    try:
        table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
        return make_plain(table)
    except (pa.ArrowException, TypeError, ValueError) as error:
        remedy = "give each column values of one type"
        raise InputError(f"{place}: cannot be written as Parquet ({summarize_error(error)}); {remedy}") from error
