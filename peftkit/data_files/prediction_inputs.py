"""Reads the inputs of ``peftkit predict``: rows of a file, or lines of text."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from peftkit.argument_names import format_argument
from peftkit.data_files.charset_detection import is_other_utf8
from peftkit.data_files.decompressed_text import HEAD, decode_lines, open_binary, open_text
from peftkit.data_files.file_options import DEFAULT_OPTIONS, FileOptions
from peftkit.data_files.readers import file_format, only_data_file, read_rows
from peftkit.data_files.saved_datasets import read_saved_dataset
from peftkit.data_files.zip_archives import is_archive, normalize_member
from peftkit.errors import InputError


def read_prediction_inputs(
    file: str | None, options: FileOptions = DEFAULT_OPTIONS
) -> Iterator[str | Mapping[str, Any]]:
    """Reads the inputs to predict, lazily.

    Args:
        file: Path of a file, or of a folder that ``Dataset.save_to_disk`` wrote; None for standard input.
        options: How files of rows are written, such as those that a run was trained on.

    Yields:
        Rows if the file has the form of the options or an extension of ``FORMATS``, or else lines of text. The lines of
        a text file are texts, unless the options say what a row is.

    Raises:
        InputError: The file cannot be opened, is invalid, or is not UTF-8.
    """
    if file is None:
        yield from _standard_input()
    elif Path(file).is_dir():
        yield from read_saved_dataset(file)
    else:
        name = normalize_member(file)
        name = only_data_file(name, options) if is_archive(name) else name
        form = file_format(Path(name))
        in_parts = form == "text" and options.sample_by not in (None, "line")  # otherwise each line has a prediction
        if options.form is not None or form not in (None, "text") or in_parts:
            yield from read_rows(name, options)
        elif options.encoding:
            with open_text(name, options.encoding) as text:
                yield from (line.rstrip("\r\n") for line in text)
        else:
            with open_binary(name) as stream:
                yield from decode_lines(stream, name)


def check_inherited_encoding(file: str, encoding: str) -> None:
    """Checks that a file to predict is not UTF-8, if it would be read in another encoding because training files were.

    Args:
        file: Path of a file of text.
        encoding: The encoding of the files of training.

    Raises:
        InputError: The file cannot be opened, or is UTF-8.
    """
    with open_binary(file) as stream:
        if is_other_utf8(stream.read(HEAD), encoding):
            option = format_argument("encoding")
            raise InputError(
                f"{file}: is UTF-8, but the files of training are {encoding}; say what it is: {option} utf-8, or "
                f"{option} {encoding}"
            )


def _standard_input() -> Iterator[str]:
    if sys.stdin is None:
        raise InputError("standard input is closed; use " + " or ".join(map(format_argument, ("text", "file"))))
    buffer = getattr(sys.stdin, "buffer", None)
    if buffer is not None:  # do not decode with the encoding of the locale
        yield from decode_lines(buffer, "standard input")
    else:
        yield from (line.rstrip("\r\n").removeprefix("\ufeff") for line in sys.stdin)
