"""How texts are brought into one form before they are compared."""

from __future__ import annotations

import hashlib
import string
import unicodedata


def normalised(text: str, *, ignore_case: bool = True, ignore_punctuation: bool = False) -> str:
    """The text in Unicode's composed form, without superfluous white space and what else is to be ignored."""
    text = unicodedata.normalize("NFC", text)
    if ignore_punctuation:
        kept = (c for c in text if c not in string.punctuation and unicodedata.category(c)[0] != "P")
        text = unicodedata.normalize("NFC", "".join(kept))  # what stood on either side of it may be one character
    if ignore_case:
        text = unicodedata.normalize("NFC", text.casefold())  # folding may decompose what was composed
    return " ".join(text.split())


def identifier(text: str, longest: int = 40) -> str:
    """The text itself where it is short, and otherwise a hash of it: equal texts have equal identifiers.

    Args:
        text: any text, such as a passage.
        longest: characters up to which the text is its own identifier.
    """
    if len(text) <= longest:
        return text
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
