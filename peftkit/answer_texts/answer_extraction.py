"""Extracts the answer from a text that explains it, as solutions of mathematical problems do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

NUMBER = re.compile(
    r"""
    (?<![\w.]) [-+−]? [$€£]?
    (?: (?:\d{1,3}\ )? \d+/\d+
      | -? (?:\d{1,3} (?: (?: ,(?:\\!)? | \{,\} | \\, | [\u00a0\u202f\u2009] ) \d{3} )+ | \d+)?
        (?:\.\d+|(?<=\d)) (?:[eE][-+]?\d+)?
      | \\[dtc]?frac\s*\{-?\d+\}\s*\{\d+\}
    )
    (?!\d) (?:\\?%)?
    """,
    re.VERBOSE,
)
"""A number, also with a currency, commas or narrow spaces between thousands, a percent sign, or as a fraction."""
HASH = re.compile(r"####[ \t]*(.+)")
"""The last line of a solution of GSM8K."""
ANSWER_IS = re.compile(r"\bthe (?:final |correct )?answer is[ \t]*:?[ \t]*", re.IGNORECASE)
"""How the last sentence of a solution of MetaMathQA starts."""
CHOICE = re.compile(
    r"(?:(?i:answer|option|choice)(?:\s+(?i:is))?\s*:?|\\boxed\{(?:\\[a-z]+\{)?)\s*\**\s*(?:([A-HJ])\b|\(([A-Ja-j])\))"
)
"""A sentence that names a choice, or a box with one."""
LOWER_CHOICE = re.compile(r"(?i:answer|option|choice)\s*:\s*([a-j])(?:\W*$|\W*\n)", re.MULTILINE)
"""A line that ends with a choice in lower case."""
RIGHT = re.compile(r"\b([A-HJ])\)? is (?:the )?(?:right|correct|best)\b")
"""A sentence that says which choice is right."""
LETTER = re.compile(r"(?<![\w'])\(?([A-HJ])(?:[).:]|</|\**\s*$)", re.MULTILINE)
"""A letter by itself, in brackets or tags, or before a full stop or colon."""
ONLY_LETTER = re.compile(r"\W*([A-Ja-j])\W*")
"""A text that is a letter."""
BOX = re.compile(r"\\(?:boxed|fbox)(?:\s*\{|\s+([^\s${}]+))")
r"""The start of a box: ``\boxed{…}``, or ``\boxed 5`` of one token."""
Extraction = Literal["last_number", "hash", "answer_is", "boxed", "choice_letter"]


def extract_last_number(text: str) -> str | None:
    """Return the last number of a text; None if there is none."""
    numbers = [match[0] for match in NUMBER.finditer(text) if any(map(str.isdigit, match[0]))]
    return numbers[-1] if numbers else None


def extract_hash(text: str) -> str | None:
    """Return what follows the last ``####``, up to the end of the line; None if there is none."""
    matches = HASH.findall(text)
    return matches[-1].strip() if matches else None


def extract_answer_is(text: str) -> str | None:
    """Return what follows the last "the answer is", up to the end of the line or on the next; None if there is none."""
    matches = [*ANSWER_IS.finditer(text)]
    if not matches:
        return None
    line = text[matches[-1].end() :].lstrip().partition("\n")[0]
    return extract_boxed(line) or line.strip(" \t\r.!?$*") or None


def extract_boxed(text: str) -> str | None:
    r"""Return what the last ``\boxed{…}`` contains, whose braces may be nested; None if there is none, or no end."""
    matches = [*BOX.finditer(text)]
    if not matches:
        return None
    if matches[-1][1]:
        return matches[-1][1].rstrip(".,;!?") or None
    depth, first = 0, matches[-1].end() - 1
    for position in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if not depth:
            return text[first + 1 : position].strip()
    return None


def extract_choice_letter(text: str) -> str | None:
    """Return the letter of a choice: the last that a sentence names, or the last by itself; None if there is none."""
    if only := ONLY_LETTER.fullmatch(text):
        return only[1].upper()
    named = [next(filter(None, groups)) for groups in CHOICE.findall(text)] or LOWER_CHOICE.findall(text)
    letters = named or RIGHT.findall(text) or LETTER.findall(text)
    return letters[-1].upper() if letters else None


EXTRACTIONS: Mapping[Extraction, Callable[[str], str | None]] = {
    "last_number": extract_last_number,
    "hash": extract_hash,
    "answer_is": extract_answer_is,
    "boxed": extract_boxed,
    "choice_letter": extract_choice_letter,
}
"""The functions by name."""
