"""Guesses the encoding of files that are not UTF-8, for error messages and first recipes."""

from __future__ import annotations

import codecs

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encoding by byte order mark; the marks of UTF-32 start like those of UTF-16, so they are first."""
NULL_SHARE = 0.3
"""Share of null bytes at even or odd places from which a text is UTF-16: Latin text has almost 1, Chinese text few."""


def marked_encoding(head: bytes) -> str | None:
    """Returns the encoding that a byte order mark names, other than UTF-8; None without one."""
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), None)


def guess_encoding(content: bytes) -> str | None:
    """Returns the likely encoding of a text, named as in Python; None if it is UTF-8 or unknown.

    Encodings with one byte for each character cannot be distinguished: cp1252, the most frequent one, stands for them.

    Args:
        content: The start of the text; a character at its end may be incomplete.
    """
    if marked := marked_encoding(content):
        return marked
    for name, places in (("utf-16-le", content[1::2]), ("utf-16-be", content[::2])):
        if places and places.count(0) > NULL_SHARE * len(places):
            return name
    if _decodes(content, "utf-8") or not _decodes(content, "cp1252"):
        return None
    return "cp1252"


def is_other_utf8(content: bytes, encoding: str) -> bool:
    """Returns whether a text is UTF-8, and another text if it is read in an encoding.

    Args:
        content: The start of the text; a character at its end may be incomplete.
        encoding: The encoding, named as in Python.
    """
    if marked_encoding(content) or not _decodes(content, "utf-8"):
        return False
    text = codecs.getincrementaldecoder("utf-8")().decode(content)
    return codecs.getincrementaldecoder(encoding)("replace").decode(content) != text


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(content)
    except UnicodeDecodeError:
        return False
    return True
