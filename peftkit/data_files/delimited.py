"""Reads CSV and TSV files; every cell is a string."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any

from peftkit.data_files.decompressed_text import null_character_error, open_text
from peftkit.data_files.file_options import DEFAULT_OPTIONS, FileOptions
from peftkit.errors import InputError

QUOTING = {"minimal": csv.QUOTE_MINIMAL, "none": csv.QUOTE_NONE}
TAB = "\t"
DELIMITERS = (";", TAB, "|", ",")
"""The delimiters that are proposed, the most likely first."""


def read_csv(file: str, options: FileOptions = DEFAULT_OPTIONS) -> Iterator[dict[str, Any]]:
    """Reads the rows of a CSV file whose first line has the column names.

    Args:
        file: Path of the file. Cells with commas, quotes or line breaks are quoted, and quotes in them are doubled.
        options: What differs from that.

    Yields:
        Cells by column name; empty cells are None.

    Raises:
        InputError: A row has more or fewer cells than the header, or an unbalanced quote.
    """
    yield from _read(file, options.delimiter or ",", QUOTING[options.quoting or "minimal"], options.encoding)


def read_tsv(file: str, options: FileOptions = DEFAULT_OPTIONS) -> Iterator[dict[str, Any]]:
    """Reads the rows of a TSV file, in which quotes have no special meaning.

    Args:
        file: Path of the file. The first line has the column names.
        options: What differs from that.

    Yields:
        Cells by column name; empty cells are None.

    Raises:
        InputError: A row has more or fewer cells than the header.
    """
    yield from _read(file, options.delimiter or "\t", QUOTING[options.quoting or "none"], options.encoding)


def _read(file: str, separator: str, quoting: int, encoding: str | None) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may hold a whole document
    with open_text(file, encoding) as text:
        reader = csv.reader(_without_nulls(text, file), delimiter=separator, quoting=quoting, strict=True)  # type: ignore[arg-type]
        parsed = _parse_rows(reader, file)
        columns = _check_header(next(parsed, []), file)
        rows = (cells for cells in parsed if len(cells) > 1 or len(columns) == 1 or cells[0].strip())
        for number, cells in enumerate(rows, 1):
            if len(cells) != len(columns):
                where = (file, number, reader.line_num)
                raise _cell_count_error(*where, cells, columns, separator, quotes=quoting != csv.QUOTE_NONE)
            yield {column: cell or None for column, cell in zip(columns, cells, strict=True) if column}


def delimiter_hint(columns: Sequence[str]) -> str:
    """Returns the option to set if a header was read with a wrong delimiter; empty if nothing suggests that.

    Args:
        columns: The columns.
    """
    likely = max(DELIMITERS, key=columns[0].count) if len(columns) == 1 else ""
    if not likely or likely not in columns[0]:
        return ""
    written = "\\t" if likely == TAB else likely
    return f'; the header {columns[0]!r} has {likely!r} between names: set delimiter = "{written}"'


def _parse_rows(reader: Any, file: str) -> Iterator[list[str]]:
    """Yields the cells of each row that is not empty; rows with quoted line breaks span several lines."""
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{file}, line {start}: {_explain_csv_error(str(error), reader.line_num)}") from error
        if cells is None:
            return
        if cells:
            yield cells


def _without_nulls(text: IO[str], file: str) -> Iterator[str]:
    """Yields the lines; raises if one has a null character."""
    for number, line in enumerate(text, 1):
        if "\0" in line:
            raise null_character_error(file, number, file)
        yield line


def _check_header(columns: Sequence[str], file: str) -> list[str]:
    if not columns:
        raise InputError(f"{file}: is empty; the first line must have the column names")
    for column in columns:
        if column and columns.count(column) > 1:
            raise InputError(f"{file}, line 1: has the column {column!r} twice; give each column a unique name")
    return list(columns)


def _explain_csv_error(error: str, line: int) -> str:
    if "unexpected end of data" in error:
        return "has a quote that is never closed; close it, or double quotes inside a quoted cell"
    if "expected after" in error:
        return (
            f"has text after the closing quote of a cell (line {line}); double quotes inside a quoted cell: "
            '"He said ""yes"""'
        )
    if "new-line character" in error:
        return "has a carriage return inside an unquoted cell; quote the cell, or remove the carriage return"
    return error


def _cell_count_error(
    file: str, number: int, line: int, cells: Sequence[str], columns: Sequence[str], separator: str, *, quotes: bool
) -> InputError:
    if len(columns) == 1 and (hint := delimiter_hint(columns)):
        return InputError(f"{file}, row {number}: has {len(cells)} cells, but the header has 1 (line {line}){hint}")
    count = f"{len(cells)} cell{'s' if len(cells) != 1 else ''}"
    if len(cells) > len(columns):
        hint = f"quote cells that contain {separator!r}"
        if not quotes:
            hint = f"cells must not contain {'tabs' if separator == TAB else repr(separator)}"
    else:
        hint = "write empty cells too, and quote cells that contain line breaks"
        if not quotes:
            hint = "write empty cells too; cells must not contain line breaks"
    return InputError(f"{file}, row {number}: has {count}, but the header has {len(columns)} (line {line}); {hint}")
