"""Folders that ``Dataset.save_to_disk`` of ``datasets`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.data_files.parquet import make_plain
from peftkit.errors import InputError, listed

if TYPE_CHECKING:
    from datasets import Dataset


def is_saved(folder: Path) -> bool:
    """Whether ``Dataset.save_to_disk`` wrote the folder: the rows of one split."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def read_saved(folder: str) -> Dataset:
    """Reads the rows of a folder that ``Dataset.save_to_disk`` wrote.

    Args:
        folder: the path.

    Returns:
        The rows, in plain types.

    Raises:
        InputError: the folder holds several splits, or cannot be read.
    """
    from datasets import load_from_disk

    if (Path(folder) / "dataset_dict.json").is_file():
        splits = [each.name for each in sorted(Path(folder).iterdir()) if is_saved(each)]
        raise InputError(f"{folder}: holds the splits {listed(splits)}; name the folder of one of them")
    if not is_saved(Path(folder)):
        raise InputError(f"{folder!r} is a folder, and not one that Dataset.save_to_disk wrote; name its files")
    try:
        rows: Any = load_from_disk(folder)
    except Exception as error:  # what its readers raise
        raise InputError(f"{folder}: cannot be read as save_to_disk writes it: {error}") from error
    return plain_rows(rows)


def plain_rows(rows: Dataset) -> Dataset:
    """The rows in plain types (see ``make_plain``), without a format that hides columns or makes tensors of numbers."""
    from datasets import Dataset, DatasetInfo, Features

    rows = rows.with_format(None)
    schema = rows.features.arrow_schema
    if make_plain(schema.empty_table()).schema.equals(schema):
        return rows
    table = make_plain(rows.with_format("arrow")[:].replace_schema_metadata(schema.metadata))
    return Dataset(table, info=DatasetInfo(features=Features.from_arrow_schema(table.schema)))
