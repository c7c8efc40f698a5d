"""Which function reads which file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peftkit.data_files.delimited import read_csv, read_tsv
from peftkit.data_files.json_rows import read_json, read_json_lines
from peftkit.data_files.parquet import read_parquet
from peftkit.data_files.streams import COMPRESSED

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
"""The format of each file extension that is read."""
READERS: dict[str, Callable[[str], Iterator[dict[str, Any]]]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "json": read_json,
    "jsonl": read_json_lines,
    "parquet": read_parquet,
}


def file_format(file: Path) -> str | None:
    """The format of a file by its extension, or by the one before that of a compression; None for other files."""
    extensions = [extension.lower() for extension in file.suffixes]
    while extensions and extensions[-1] in COMPRESSED:
        extensions.pop()
    return FORMATS.get(extensions[-1]) if extensions else None


def read_rows(file: str) -> Iterator[dict[str, Any]]:
    """Reads the rows of a file one by one.

    Args:
        file: a path with an extension of ``FORMATS``.

    Yields:
        The row's columns by name.

    Raises:
        InputError: the file cannot be read as what its extension says, with the line where that is so.
    """
    return READERS[str(file_format(Path(file)))](file)
