"""Extracts the answer from a text that explains it, as solutions of mathematical problems do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Literal

NUMBER = re.compile(r"(?<![\w.])[-+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d)(?:/\d+)?)(?![\d])%?")
"""A number, also with a currency, commas between thousands, a percent sign, or as a fraction."""
HASH = re.compile(r"####[ \t]*(.+)")
"""The last line of a solution of GSM8K."""
CHOICE = re.compile(r"(?:answer|option|choice)(?:\s+is)?\s*:?\s*\**\(?([A-Z])\b\)?", re.IGNORECASE)
"""A sentence that names a choice."""
LETTER = re.compile(r"(?<![\w'])\(?([A-Z])(?:[).:]|$|(?=\s*$))", re.MULTILINE)
"""A letter by itself, in brackets, or before a full stop or colon."""
Extraction = Literal["last_number", "hash", "boxed", "choice_letter"]


def extract_last_number(text: str) -> str | None:
    """Return the last number of a text; None if there is none."""
    numbers = [match[0] for match in NUMBER.finditer(text) if any(map(str.isdigit, match[0]))]
    return numbers[-1] if numbers else None


def extract_hash(text: str) -> str | None:
    """Return what follows the last ``####``, up to the end of the line; None if there is none."""
    matches = HASH.findall(text)
    return matches[-1].strip() if matches else None


def extract_boxed(text: str) -> str | None:
    r"""Return what the last ``\boxed{…}`` contains, whose braces may be nested; None if there is none."""
    start = max(text.rfind(r"\boxed{"), text.rfind(r"\fbox{"))
    if start < 0:
        return None
    depth, first = 0, text.index("{", start)
    for position in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if not depth:
            return text[first + 1 : position].strip()
    return None


def extract_choice_letter(text: str) -> str | None:
    """Return the letter of a choice: the last that a sentence names, or the last by itself; None if there is none."""
    named = CHOICE.findall(text)
    letters = named or LETTER.findall(text)
    return letters[-1].upper() if letters else None


EXTRACTIONS: Mapping[Extraction, Callable[[str], str | None]] = {
    "last_number": extract_last_number,
    "hash": extract_hash,
    "boxed": extract_boxed,
    "choice_letter": extract_choice_letter,
}
"""The functions by name."""


def parse_exact_number(text: str) -> Fraction | None:
    """Return the exact value of a number as ``extract_last_number`` returns it; None if the text is no number.

    Args:
        text: The text, such as ``1,200``, ``$3.50``, ``25%`` or ``3/4``.
    """
    plain = text.strip().rstrip(".").replace("$", "").replace(",", "").removesuffix("%").replace(" ", "")
    try:
        return Fraction(plain)
    except (ValueError, ZeroDivisionError):
        return None
