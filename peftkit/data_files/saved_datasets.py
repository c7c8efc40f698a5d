"""Reads folders that ``datasets.Dataset.save_to_disk`` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.data_files.parquet import make_plain
from peftkit.errors import InputError, comma_separated

if TYPE_CHECKING:
    from datasets import Dataset


def is_saved_dataset(folder: Path) -> bool:
    """Returns whether ``Dataset.save_to_disk`` wrote the folder."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def read_saved_dataset(folder: str, max_rows: int | None = None) -> Dataset:
    """Reads the rows of a folder that ``Dataset.save_to_disk`` wrote.

    Args:
        folder: Path of the folder.
        max_rows: Maximum number of rows; None for all.

    Returns:
        The rows, in plain types.

    Raises:
        InputError: The folder has several splits, or cannot be read.
    """
    from datasets import load_from_disk

    if (Path(folder) / "dataset_dict.json").is_file():
        splits = [each.name for each in sorted(Path(folder).iterdir()) if is_saved_dataset(each)]
        raise InputError(f"{folder}: has the splits {comma_separated(splits)}; choose the folder of one of them")
    if not is_saved_dataset(Path(folder)):
        raise InputError(f"{folder!r} is a folder that Dataset.save_to_disk did not write; list its files instead")
    try:
        if not json.loads((Path(folder) / "state.json").read_bytes())["_data_files"]:
            raise InputError(f"{folder}: has no rows")
        rows: Any = load_from_disk(folder)
    except InputError:
        raise
    except Exception as error:  # load_from_disk documents no exceptions
        raise InputError(f"{folder}: is not a readable folder of Dataset.save_to_disk: {error}") from error
    return to_plain_types(first_rows(rows, max_rows))


def first_rows(rows: Dataset, number: int | None) -> Dataset:
    """Returns the first rows of a dataset.

    Args:
        rows: The dataset.
        number: Maximum number of rows; None for all.
    """
    return rows if number is None or len(rows) <= number else rows.select(range(number))


def to_plain_types(rows: Dataset) -> Dataset:
    """Converts a dataset to plain types (see ``make_plain``) and resets its format."""
    from datasets import Dataset, DatasetInfo, Features

    rows = rows.with_format(None)
    schema = rows.features.arrow_schema
    if make_plain(schema.empty_table()).schema.equals(schema):
        return rows
    table = make_plain(rows.with_format("arrow")[:].replace_schema_metadata(schema.metadata))
    return Dataset(table, info=DatasetInfo(features=Features.from_arrow_schema(table.schema)))
