"""How files of rows are written, where their extension does not say it."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

Quoting = Literal["minimal", "none"]
"""Whether cells with delimiters, quotes or line breaks are quoted, or quotes mean nothing."""
SampleBy = Literal["line", "paragraph", "document"]
"""What a row of a text file is, named as in ``datasets``."""
DELIMITED_FORMATS = ("csv", "tsv")
"""Formats with a delimiter."""
TEXT_FORMATS = ("csv", "tsv", "json", "jsonl", "text")
"""Formats with an encoding."""


class FileLayout(Protocol):
    """A form of files that a task chooses, instead of the one of their extension; its ``repr`` identifies it."""

    def __hash__(self) -> int:
        """Returns a hash; equal layouts have the same one."""

    @property
    def extensions(self) -> tuple[str, ...]:
        """Extensions of files that are found in a folder."""

    def read(self, file: str, encoding: str | None = None) -> Iterator[dict[str, Any]]:
        """Reads the rows of a file, lazily.

        Args:
            file: Path of the file.
            encoding: Its encoding; UTF-8 if unset.

        Raises:
            InputError: The file has another form.
        """


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How files are written, where their extension does not say it.

    Attributes:
        delimiter: The character between the cells of CSV and TSV files.
        quoting: Whether cells of CSV and TSV files may be quoted.
        encoding: The encoding of text files; UTF-8 if unset.
        field: The key of the rows in a JSON file; dots select nested keys.
        sample_by: What a row of a text file is; a line if unset.
        form: The form of the files, whatever their extension; None for that of their extension.
    """

    delimiter: str | None = None
    quoting: Quoting | None = None
    encoding: str | None = None
    field: str | None = None
    sample_by: SampleBy | None = None
    form: FileLayout | None = None

    FORMATS: ClassVar[Mapping[str, tuple[tuple[str, ...], str]]] = {
        "delimiter": (DELIMITED_FORMATS, "CSV or TSV"),
        "quoting": (DELIMITED_FORMATS, "CSV or TSV"),
        "encoding": (TEXT_FORMATS, "text"),
        "field": (("json",), "JSON"),
        "sample_by": (("text",), ".txt"),
    }
    """The formats on which each option has an effect, and how they are called."""

    def without_effect(self, formats: set[str | None]) -> Iterator[tuple[str, str]]:
        """Yields the options that are set but have no effect, with the files that are missing.

        Args:
            formats: The formats of the files; those of a form of its own have none.
        """
        for option, (affected, name) in self.FORMATS.items():
            if self.form is not None and option == "encoding":
                continue
            if getattr(self, option) is not None and (self.form is not None or not formats & {*affected}):
                yield option, name


DEFAULT_OPTIONS = FileOptions()


def check_delimiter(delimiter: str) -> str:
    """Return a delimiter.

    Raises:
        ValueError: It cannot separate cells.
    """
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise ValueError(f"must be one character that is no quote and no line break, not {delimiter!r}")
    return delimiter


def check_encoding_name(encoding: str) -> str:
    """Return the name of an encoding.

    Raises:
        ValueError: There is no such encoding of texts.
    """
    try:
        known = codecs.lookup(encoding)
        "".encode(encoding)  # encodings of bytes, such as base64, refuse texts
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"unknown encoding {encoding!r}; encodings are named as in Python, such as 'cp1252'") from None
    return known.name
