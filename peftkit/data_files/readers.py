"""Chooses the reader of a file by its extension."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from peftkit.data_files.decompressed_text import COMPRESSED
from peftkit.data_files.delimited import delimiter_hint, read_csv, read_tsv
from peftkit.data_files.file_options import DEFAULT_OPTIONS, FileOptions
from peftkit.data_files.json_rows import read_json, read_json_lines
from peftkit.data_files.parquet import read_parquet
from peftkit.data_files.text_rows import TEXT_COLUMN, read_text_rows
from peftkit.data_files.zip_archives import SEPARATOR, members, split_member
from peftkit.errors import InputError, comma_separated

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
}
"""Format by file extension."""
READERS: dict[str, Callable[[str, FileOptions], Iterator[dict[str, Any]]]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "json": read_json,
    "jsonl": read_json_lines,
    "parquet": lambda file, _: read_parquet(file),
    "text": read_text_rows,
}


def file_format(file: Path) -> str | None:
    """Returns the format of a file by its extension, ignoring those of compressions; None if it is unknown."""
    extensions = [extension.lower() for extension in file.suffixes]
    while extensions and extensions[-1] in COMPRESSED:
        extensions.pop()
    return FORMATS.get(extensions[-1]) if extensions else None


def read_rows(file: str, options: FileOptions = DEFAULT_OPTIONS) -> Iterator[dict[str, Any]]:
    """Reads the rows of a file, lazily.

    Args:
        file: Path of a file with an extension of ``FORMATS``, or in the form that the options name.
        options: How the file is written, where its extension does not say it.

    Yields:
        Values by column name.

    Raises:
        InputError: The file is invalid; the message has the line where possible.
    """
    if options.form is not None:
        return options.form.read(file, options.encoding)
    return READERS[str(file_format(Path(file)))](file, options)


def missing_column_hint(columns: Sequence[str], file: str) -> str:
    """Returns what to do if a column is missing because of how the file is read; empty if nothing suggests that.

    Args:
        columns: The columns.
        file: Path of the file.
    """
    if file_format(Path(file)) == "text" and list(columns) == [TEXT_COLUMN]:
        return "; a .txt file has no columns, so give one with columns the extension .csv or .tsv"
    return delimiter_hint(columns)


def find_data_files(archive: str, options: FileOptions = DEFAULT_OPTIONS) -> list[str]:
    """Returns the paths of the data files in a zip archive; text files only if there are no others.

    Args:
        archive: Path of the archive.
        options: How the files are written.

    Raises:
        InputError: It is no readable archive, or has no data files.
    """
    names = members(archive)
    if options.form is not None:
        extensions = options.form.extensions
        files = [name for name in names if Path(name).suffix.lower() in extensions]
    else:
        formats = {name: file_format(Path(name)) for name in names}
        files = [name for name in names if formats[name] not in (None, "text")]
        files = files or [name for name in names if formats[name] == "text"]
    if not files:
        raise InputError(f"{archive}: has no data files; files: {comma_separated(names[:20])}")
    return [f"{archive}{SEPARATOR}{name}" for name in files]


def only_data_file(archive: str, options: FileOptions = DEFAULT_OPTIONS) -> str:
    """Returns the path of the only data file in a zip archive.

    Args:
        archive: Path of the archive.
        options: How the file is written.

    Raises:
        InputError: There is none, or several.
    """
    files = find_data_files(archive, options)
    if len(files) > 1:
        names = comma_separated([split_member(each)[1] or "" for each in files[:20]])
        raise InputError(f"{archive}: has {len(files)} data files, {names}; choose one, such as {files[0]!r}")
    return files[0]
