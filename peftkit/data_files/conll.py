"""Reads files with one word a line and a blank line after each sentence, as the CoNLL shared tasks have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

from peftkit.data_files.decompressed_text import null_character_error, open_text
from peftkit.errors import InputError

MOST_LINES = 10_000
"""Number of lines of a file whose fields are counted."""
DOCUMENT_START = "-DOCSTART-"
DOCUMENT = "document"
"""Column with the number of the document in its file, from 0."""


@dataclass(frozen=True, slots=True)
class ConllFormat:
    """Where words and tags are on a line, and what the columns of the rows are called.

    Attributes:
        words: Name of the column with the words of a sentence.
        tags: Name of the column with their tags.
        word_field: Number of the field with the word, from 0; from -1 backwards.
        tag_field: Number of the field with the tag.
        separator: What separates fields; None for any blanks.
        comment: Start of lines that are skipped; None if there are none.
    """

    words: str
    tags: str
    word_field: int = 0
    tag_field: int = -1
    separator: str | None = None
    comment: str | None = None

    extensions: ClassVar[tuple[str, ...]] = (".conll", ".conllu", ".txt", ".bio", ".iob", ".iob2", ".tsv")
    """Extensions of files that are found in a folder."""

    def without_answers(self) -> ConllFormat:
        """Returns the form of files whose lines may lack the tag."""
        return replace(self, tag_field=self.word_field)

    def read(self, file: str, encoding: str | None = None) -> Iterator[dict[str, Any]]:
        """Reads the sentences of a file (see ``read_conll``).

        Args:
            file: Path of the file.
            encoding: Its encoding; UTF-8 if unset.
        """
        return read_conll(file, self, encoding)


def read_conll(file: str, layout: ConllFormat, encoding: str | None = None) -> Iterator[dict[str, Any]]:
    """Reads the sentences of a file, lazily.

    Args:
        file: Path of the file.
        layout: Its format.
        encoding: Its encoding; UTF-8 if unset.

    Yields:
        The words and tags of a sentence as lists, and the number of its document; -DOCSTART- starts a document.

    Raises:
        InputError: A line has another number of fields than the first of its sentence, or too few.
    """
    words: list[str] = []
    tags: list[str] = []
    document = width = 0
    seen = False
    with open_text(file, encoding) as text:
        for number, raw in enumerate(text, 1):
            if "\0" in raw:
                raise null_character_error(file, number, file)
            line = raw.rstrip("\r\n")
            starts_document = line.startswith(DOCUMENT_START)
            if not line.strip() or starts_document:
                if words:
                    seen = True
                    yield {layout.words: words, layout.tags: tags, DOCUMENT: document}
                    words, tags = [], []
                document += starts_document and seen
                continue
            if layout.comment and line.startswith(layout.comment):
                continue
            fields = line.split(layout.separator)
            width = width if words else len(fields)
            if len(fields) != width:
                raise _field_count_error(file, number, fields, width, layout)
            for name, field in (("word_field", layout.word_field), ("tag_field", layout.tag_field)):
                if not -len(fields) <= field < len(fields):
                    raise InputError(
                        f"{file}, line {number}: has {_count(len(fields))}, so there is no field {field} "
                        f"({name}, from 0; from -1 backwards)"
                    )
            words.append(fields[layout.word_field])
            tags.append(fields[layout.tag_field])
    if words:
        yield {layout.words: words, layout.tags: tags, DOCUMENT: document}


def field_counts(file: str, layout: ConllFormat, encoding: str | None = None) -> dict[int, str]:
    """Returns how many fields the lines of a file have, with the first line of each number.

    Args:
        file: Path of the file.
        layout: Its format.
        encoding: Its encoding; UTF-8 if unset.

    Raises:
        InputError: The file cannot be opened, or has another encoding.
    """
    counts: dict[int, str] = {}
    with open_text(file, encoding) as text:
        for raw in islice(text, MOST_LINES):
            line = raw.rstrip("\r\n")
            is_comment = bool(layout.comment) and line.startswith(str(layout.comment))
            if line.strip() and not line.startswith(DOCUMENT_START) and not is_comment:
                counts.setdefault(len(line.split(layout.separator)), line)
    return counts


def _field_count_error(file: str, number: int, fields: list[str], width: int, layout: ConllFormat) -> InputError:
    remedy = "write each word with all its fields, and a blank line after each sentence"
    if layout.separator is None and len(fields) > width:
        remedy = "if words contain blanks, set field_separator to what separates fields, such as a tab"
    if layout.comment is None and fields[0].startswith("#"):
        remedy = "if it is a comment, set comment_prefix"
    return InputError(
        f"{file}, line {number}: has {_count(len(fields))}, but the first line of the sentence {width}; {remedy}"
    )


def _count(number: int) -> str:
    return f"{number} field{'s'[: number != 1]}"
