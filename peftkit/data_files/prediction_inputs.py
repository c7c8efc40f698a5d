"""Reads the inputs of ``peftkit predict``: rows of a file, or lines of text."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peftkit.argument_names import format_argument
from peftkit.data_files.decompressed_text import decode_lines, open_binary
from peftkit.data_files.readers import file_format, read_rows
from peftkit.data_files.saved_datasets import read_saved_dataset
from peftkit.errors import InputError


def read_prediction_inputs(file: str | None) -> Iterator[str | Mapping[str, Any]]:
    """Reads the inputs to predict, lazily.

    Args:
        file: Path of a file, or of a folder that ``Dataset.save_to_disk`` wrote; None for standard input.

    Yields:
        Rows if the file has an extension of ``FORMATS``, or else lines of text.

    Raises:
        InputError: The file cannot be opened, is invalid, or is not UTF-8.
    """
    if file is None:
        yield from _standard_input()
    elif Path(file).is_dir():
        yield from read_saved_dataset(file)
    elif file_format(Path(file)):
        yield from read_rows(file)
    else:
        with open_binary(file) as stream:
            yield from decode_lines(stream, file)


def _standard_input() -> Iterator[str]:
    if sys.stdin is None:
        raise InputError("standard input is closed; use " + " or ".join(map(format_argument, ("text", "file"))))
    buffer = getattr(sys.stdin, "buffer", None)
    if buffer is not None:  # do not decode with the encoding of the locale
        yield from decode_lines(buffer, "standard input")
    else:
        yield from (line.rstrip("\r\n").removeprefix("\ufeff") for line in sys.stdin)
