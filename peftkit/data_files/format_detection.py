"""Guesses how a user's files are written, so that their first recipe has the options to read them."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from peftkit.data_files.conll import DOCUMENT_START
from peftkit.data_files.decompressed_text import file_encoding, open_text
from peftkit.data_files.delimited import DELIMITERS, QUOTING, TAB
from peftkit.data_files.file_options import TEXT_FORMATS, FileOptions, Quoting, SampleBy
from peftkit.data_files.json_rows import row_keys
from peftkit.data_files.readers import file_format
from peftkit.errors import InputError

CHARACTERS = 1 << 18
"""Number of characters of a file that are looked at."""
CONLL_LINES = 200_000
"""Number of lines of a CoNLL file that are looked at."""
MOST_TAGS = 100
"""Largest number of different tags."""
ENTITY_TAG = re.compile(r"O|[BIESLU]-\S+")
UNIVERSAL = 10
"""Number of fields of CoNLL-U, which has the number of a word first, the word second and its part of speech fourth."""
LONG_LINE = 60
"""Mean number of characters of a line from which it is not that of a text with hard line breaks."""


@dataclass(frozen=True)
class ConllGuess:
    """How a CoNLL file is written.

    Attributes:
        word_field: Number of the field with the word.
        tag_field: Number of the field with the tag.
        separator: What separates fields; None for any blanks.
        comment: Start of lines that are skipped; None if there are none.
        sentences: The tags of each sentence that was read.
    """

    word_field: int
    tag_field: int
    separator: str | None
    comment: str | None
    sentences: tuple[tuple[str, ...], ...]


def guess_options(file: str) -> FileOptions:
    """Returns how a file is written where that differs from its extension.

    Args:
        file: Path of a CSV, TSV, JSON, JSON Lines, Parquet or text file.

    Raises:
        InputError: The file cannot be opened.
    """
    form = file_format(Path(file))
    if form not in TEXT_FORMATS:
        return FileOptions()
    encoding = file_encoding(file)
    if form in ("csv", "tsv"):
        delimiter, quoting = _guess_cells(_head(file, encoding), str(form))
        return FileOptions(delimiter, quoting, encoding)
    field = _guess_field(file, encoding) if form == "json" else None
    return FileOptions(encoding=encoding, field=field)


def _head(file: str, encoding: str | None) -> str:
    """Returns the first lines of a file."""
    with open_text(file, encoding) as text:
        head = text.read(CHARACTERS)
    return head if len(head) < CHARACTERS else head[: head.rfind("\n") + 1]


def _guess_cells(head: str, form: str) -> tuple[str | None, Quoting | None]:
    """Returns delimiter and quoting; None for those of the extension."""
    usual: tuple[str, Quoting] = (TAB, "none") if form == "tsv" else (",", "minimal")
    quotings: list[Quoting] = ["none", "minimal"] if form == "tsv" else ["minimal", "none"]
    best, best_share = usual, 0.0
    for delimiter in (usual[0], *(each for each in DELIMITERS if each != usual[0])):
        for quoting in quotings:
            share = _share_of_equal_rows(head, delimiter, quoting)
            # Quotes around every cell are no content.
            share -= 0.5 * (quoting == "none" and _all_quoted(head, delimiter))
            if share > best_share + 0.01:
                best, best_share = (delimiter, quoting), share
    delimiter, quoting = best
    return (None if delimiter == usual[0] else delimiter, None if quoting == usual[1] else quoting)


def _share_of_equal_rows(head: str, delimiter: str, quoting: Quoting) -> float:
    """Returns the share of rows with as many cells as the header; 0 if that has one."""
    try:
        lines = head.splitlines(keepends=True)
        reader = csv.reader(lines, delimiter=delimiter, quoting=QUOTING[quoting], strict=True)  # type: ignore[arg-type]
        widths = [len(cells) for cells in reader if cells]
    except csv.Error:
        return 0.0
    if not widths or widths[0] < 2:
        return 0.0
    return sum(width == widths[0] for width in widths) / len(widths)


def _all_quoted(head: str, delimiter: str) -> bool:
    cells = head.partition("\n")[0].rstrip("\r").split(delimiter)
    return all(len(cell) > 1 and cell.startswith('"') and cell.endswith('"') for cell in cells)


def _guess_field(file: str, encoding: str | None) -> str | None:
    """Returns the key of the largest table of a JSON file with several; None for others."""
    keys = row_keys(file, encoding)
    return max(keys, key=lambda key: keys[key]) if len(keys) > 1 else None


def guess_sample_by(files: Sequence[str]) -> SampleBy:
    """Returns what a document of text files is.

    Args:
        files: The paths.

    Raises:
        InputError: A file cannot be opened.
    """
    if len(files) > 1:
        return "document"
    lines = _head(files[0], file_encoding(files[0])).splitlines()
    filled = [line for line in lines if line.strip()]
    wrapped = bool(filled) and sum(map(len, filled)) / len(filled) < LONG_LINE
    return "paragraph" if wrapped and len(filled) < len([*_strip(lines)]) else "line"


def _strip(lines: Sequence[str]) -> Sequence[str]:
    """Returns lines without blank ones at the start and at the end."""
    filled = [number for number, line in enumerate(lines) if line.strip()]
    return lines[filled[0] : filled[-1] + 1] if filled else ()


def guess_conll(file: str) -> ConllGuess | None:
    """Returns how a CoNLL file is written; None if the file is none.

    Args:
        file: Path of the file, with any extension.
    """
    if file_format(Path(file)) in ("csv", "json", "jsonl", "parquet"):
        return None
    try:
        with open_text(file, file_encoding(file)) as text:
            lines = [line.rstrip("\r\n") for line in islice(text, CONLL_LINES)]
    except InputError:
        return None
    commented = [line for line in lines if line.startswith("# ") or line.startswith("#\t")]
    comment = "# " if commented and all(len(line.split(TAB)) == 1 for line in commented) else None
    sentences: list[list[str]] = [[]]
    for line in lines:
        if not line.strip() or line.startswith(DOCUMENT_START):
            sentences.append([])
        elif comment is None or not line.startswith(comment):
            sentences[-1].append(line)
    sentences = [sentence for sentence in sentences if sentence]
    tabs = all(TAB in line for sentence in sentences for line in sentence)
    for separator in (TAB, None) if tabs else (None,):
        guess = _guess_fields([[line.split(separator) for line in sentence] for sentence in sentences], separator)
        if guess is not None:
            word, tag, tags = guess
            # Blanks and tabs split equally where there are no other blanks.
            plain = separator is None or all(
                line.split() == line.split(separator) for sentence in sentences for line in sentence
            )
            return ConllGuess(word, tag, None if plain else separator, comment, tags)
    return None


def _guess_fields(
    sentences: Sequence[Sequence[Sequence[str]]], separator: str | None
) -> tuple[int, int, tuple[tuple[str, ...], ...]] | None:
    """Returns the fields of word and tag, and the tags of each sentence; None if this is no CoNLL file."""
    rows = [fields for sentence in sentences for fields in sentence]
    widths = {len(fields) for fields in rows}
    if len(sentences) < 2 or len(widths) != 1 or min(widths) < 2:
        return None
    width = widths.pop()
    numbered = width > 2 and all(re.fullmatch(r"\d+(?:[-.]\d+)?", fields[0]) for fields in rows)
    word = 1 if numbered else 0
    tag = 3 if numbered and width == UNIVERSAL else width - 1
    tags = {fields[tag] for fields in rows}
    entities = all(ENTITY_TAG.fullmatch(each) for each in tags)
    repeated = len(tags) <= min(MOST_TAGS, len(rows) // 3)
    words = {fields[word] for fields in rows}
    if not (entities or (repeated and len(tags) < len(words))) or len(tags) < 2:
        return None
    shown = tag if tag != width - 1 else -1
    return word, shown, tuple(tuple(fields[tag] for fields in sentence) for sentence in sentences)
