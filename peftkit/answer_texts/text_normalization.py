"""Normalizes texts before they are compared."""

from __future__ import annotations

import hashlib
import string
import unicodedata


def normalize(text: str, *, ignore_case: bool = True, ignore_punctuation: bool = False) -> str:
    """Normalize Unicode (NFC) and white space.

    Args:
        text: The text.
        ignore_case: Case-fold it.
        ignore_punctuation: Remove ASCII and Unicode punctuation.

    Returns:
        The normalized text.
    """
    text = unicodedata.normalize("NFC", text)
    if ignore_punctuation:
        kept = (c for c in text if c not in string.punctuation and unicodedata.category(c)[0] != "P")
        text = unicodedata.normalize("NFC", "".join(kept))  # characters around punctuation may compose
    if ignore_case:
        text = unicodedata.normalize("NFC", text.casefold())  # case folding may decompose characters
    return " ".join(text.split())


def collapse_blanks(text: str) -> str:
    """Return the text with one space for each run of white space, and none at its ends."""
    return " ".join(text.split())


def text_hash(text: str) -> int:
    """Return a 64-bit hash of the normalized text, to find equal ones."""
    digest = hashlib.blake2b(normalize(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def to_identifier(text: str, longest: int = 40) -> str:
    """Return a short text as it is, and a hash of a longer one.

    Args:
        text: The text, such as a passage.
        longest: The largest length in characters of a text that is returned as it is.

    Returns:
        The identifier; equal texts have equal ones.
    """
    if len(text) <= longest:
        return text
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
