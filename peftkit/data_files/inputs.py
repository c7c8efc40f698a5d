"""What is to be predicted: the rows of a file, or lines of text."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peftkit.data_files.readers import file_format, read_rows
from peftkit.data_files.saved import read_saved
from peftkit.data_files.streams import decoded_lines, open_binary
from peftkit.errors import InputError


def read_inputs(file: str | None) -> Iterator[str | Mapping[str, Any]]:
    """Reads what is to be predicted.

    Args:
        file: a path; None for standard input. Files of rows, and folders that ``Dataset.save_to_disk`` wrote, are read
            as those of a task are, other files line by line.

    Yields:
        The rows of a file whose extension is one of rows, and the lines of others, as they come.

    Raises:
        InputError: the file cannot be opened or is not what its extension says; a line is not UTF-8.
    """
    if file is None:
        yield from _standard_input()
    elif Path(file).is_dir():
        yield from read_saved(file)
    elif file_format(Path(file)):
        yield from read_rows(file)
    else:
        with open_binary(file) as stream:
            yield from decoded_lines(stream, file)


def _standard_input() -> Iterator[str]:
    if sys.stdin is None:
        raise InputError("standard input is closed; give --text or --file")
    buffer = getattr(sys.stdin, "buffer", None)
    if buffer is not None:  # decoded here, and not as the locale says
        yield from decoded_lines(buffer, "standard input")
    else:
        yield from (line.rstrip("\r\n").removeprefix("\ufeff") for line in sys.stdin)
