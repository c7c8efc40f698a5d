"""Reads text files without columns: a row is a line, a paragraph or the whole document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peftkit.data_files.decompressed_text import null_character_error, open_text
from peftkit.data_files.file_options import DEFAULT_OPTIONS, FileOptions

TEXT_COLUMN = "text"
"""Column of the rows, named as in ``datasets``."""


def read_text_rows(file: str, options: FileOptions = DEFAULT_OPTIONS) -> Iterator[dict[str, Any]]:
    """Reads the rows of a text file; blank ones are left out.

    Args:
        file: Path of the file.
        options: Its encoding, and what a row is: a line, a paragraph (up to a blank line), or the document.

    Yields:
        The texts, with line breaks as line feeds and without those at their end.

    Raises:
        InputError: The file has another encoding, or null characters.
    """
    parts: list[str] = []
    with open_text(file, options.encoding) as text:
        for number, raw in enumerate(text, 1):
            if "\0" in raw:
                raise null_character_error(file, number, file)
            line = raw.rstrip("\r\n")
            ends = options.sample_by in (None, "line") or (options.sample_by == "paragraph" and not line.strip())
            parts.append(line)
            if ends:
                yield from _row(parts)
                parts = []
    yield from _row(parts)


def _row(lines: list[str]) -> Iterator[dict[str, Any]]:
    text = "\n".join(lines).strip("\n")
    if text.strip():
        yield {TEXT_COLUMN: text}
