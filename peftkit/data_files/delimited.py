"""CSV and TSV: every cell is the text that stands in it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any

from peftkit.data_files.streams import null_character, open_text
from peftkit.errors import InputError


def read_csv(file: str) -> Iterator[dict[str, Any]]:
    """Reads the rows of a CSV file, whose first line names the columns.

    Args:
        file: the path. A text with a comma, a quote or a line end stands in quotes, and a quote in it twice.

    Yields:
        The cells by column; an empty one is None.

    Raises:
        InputError: a row has other fields than the header, or quotes do not match, with the row and line.
    """
    yield from _read(file, ",", csv.QUOTE_MINIMAL)


def read_tsv(file: str) -> Iterator[dict[str, Any]]:
    """Reads the rows of a TSV file, in which a quote is a character as any other.

    Args:
        file: the path. The first line names the columns.

    Yields:
        The cells by column; an empty one is None.

    Raises:
        InputError: a row has other fields than the header, with the row and line.
    """
    yield from _read(file, "\t", csv.QUOTE_NONE)


def _read(file: str, separator: str, quoting: int) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a document may be one cell
    with open_text(file) as text:
        reader = csv.reader(_checked(text, file), delimiter=separator, quoting=quoting, strict=True)  # type: ignore[arg-type]
        lines = _parsed(reader, file)
        columns = _header(next(lines, []), file)
        rows = (cells for cells in lines if len(cells) > 1 or len(columns) == 1 or cells[0].strip())
        for number, cells in enumerate(rows, 1):
            if len(cells) != len(columns):
                raise _ragged(file, number, reader.line_num, cells, columns, separator)
            yield {column: cell or None for column, cell in zip(columns, cells, strict=True) if column}


def _parsed(reader: Any, file: str) -> Iterator[list[str]]:
    """The cells of each line that is not empty; of quoted cells, of several lines."""
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{file}, line {start}: {_reason(str(error), reader.line_num)}") from error
        if cells is None:
            return
        if cells:
            yield cells


def _checked(text: IO[str], file: str) -> Iterator[str]:
    """The lines, none of which holds a null character."""
    for number, line in enumerate(text, 1):
        if "\0" in line:
            raise null_character(file, number)
        yield line


def _header(columns: Sequence[str], file: str) -> list[str]:
    if not columns:
        raise InputError(f"{file}: is empty; the first line names the columns")
    for column in columns:
        if column and columns.count(column) > 1:
            raise InputError(f"{file}, line 1: names the column {column!r} twice; give each column a name of its own")
    return list(columns)


def _reason(error: str, line: int) -> str:
    if "unexpected end of data" in error:
        return "a quote opens here and is never closed; close it, or write a quote within a quoted text twice"
    if "expected after" in error:
        return (
            f"text follows the quote that closes a cell (line {line}); write a quote within a quoted text twice, "
            'such as "He said ""yes"""'
        )
    if "new-line character" in error:
        return "holds a carriage return within a cell that is not in quotes; put the cell in quotes, or remove it"
    return error


def _ragged(
    file: str, number: int, line: int, cells: Sequence[str], columns: Sequence[str], separator: str
) -> InputError:
    fields = f"{len(cells)} field{'s' if len(cells) != 1 else ''}"
    if len(cells) > len(columns):
        hint = f"a text with {separator!r} in it stands in quotes"
        if separator == "\t":
            hint = "a text must not hold a tab"
    else:
        hint = "write every cell, also the empty ones, and a text with a line end in it in quotes"
        if separator == "\t":
            hint = "write every cell, also the empty ones; a text must not hold a line end"
    return InputError(f"{file}, row {number}: has {fields}, and the header {len(columns)}; {hint} (line {line})")
