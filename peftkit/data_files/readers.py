"""Chooses the reader of a file by its extension."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from peftkit.data_files.decompressed_text import COMPRESSED
from peftkit.data_files.delimited import DelimitedFormat, read_csv, read_tsv
from peftkit.data_files.json_rows import read_json, read_json_lines
from peftkit.data_files.parquet import read_parquet

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
"""Format by file extension."""
DELIMITED: dict[str, Callable[[str, DelimitedFormat], Iterator[dict[str, Any]]]] = {"csv": read_csv, "tsv": read_tsv}
READERS: dict[str, Callable[[str], Iterator[dict[str, Any]]]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "json": read_json,
    "jsonl": read_json_lines,
    "parquet": read_parquet,
}


class FileLayout(Protocol):
    """A form of files that a task chooses, instead of the one of their extension; its ``repr`` identifies it."""

    def __hash__(self) -> int:
        """Returns a hash; equal layouts have the same one."""

    @property
    def extensions(self) -> tuple[str, ...]:
        """Extensions of files that are found in a folder."""

    def read(self, file: str) -> Iterator[dict[str, Any]]:
        """Reads the rows of a file, lazily.

        Args:
            file: Path of the file.

        Raises:
            InputError: The file has another form.
        """


def file_format(file: Path) -> str | None:
    """Returns the format of a file by its extension, ignoring those of compressions; None if it is unknown."""
    extensions = [extension.lower() for extension in file.suffixes]
    while extensions and extensions[-1] in COMPRESSED:
        extensions.pop()
    return FORMATS.get(extensions[-1]) if extensions else None


def read_rows(file: str, layout: DelimitedFormat | None = None) -> Iterator[dict[str, Any]]:
    """Reads the rows of a file, lazily.

    Args:
        file: Path of a file with an extension of ``FORMATS``.
        layout: How CSV and TSV files are written, where it differs from their extension.

    Yields:
        Values by column name.

    Raises:
        InputError: The file is invalid; the message has the line where possible.
    """
    form = str(file_format(Path(file)))
    return DELIMITED[form](file, layout) if layout and form in DELIMITED else READERS[form](file)
