"""Extracts the answer from a text that explains it, as solutions of mathematical problems do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

NUMBER = re.compile(
    r"""
    (?<![\w.]) [-+−]? [$€£]?
    (?: (?:\d{1,3}\ )? \d+/\d+
      | -? (?:\d{1,3}(?:,\d{3})+|\d+)? (?:\.\d+|(?<=\d)) (?:[eE][-+]?\d+)?
      | \\[dtc]?frac\s*\{-?\d+\}\s*\{\d+\}
    )
    (?!\d) (?:\\?%)?
    """,
    re.VERBOSE,
)
"""A number, also with a currency, commas between thousands, a percent sign, or as a fraction."""
HASH = re.compile(r"####[ \t]*(.+)")
"""The last line of a solution of GSM8K."""
ANSWER_IS = re.compile(r"\bthe (?:final |correct )?answer is[ \t]*:?[ \t]*", re.IGNORECASE)
"""How the last sentence of a solution of MetaMathQA starts."""
CHOICE = re.compile(
    r"(?:(?i:answer|option|choice)(?:\s+(?i:is))?\s*:?|\\boxed\{(?:\\text\{)?)\s*\**\s*(?:([A-HJ])\b|\(([A-Ja-j])\))"
)
"""A sentence that names a choice, or a box with one."""
LOWER_CHOICE = re.compile(r"(?i:answer|option|choice)\s*:\s*([a-j])(?:\W*$|\W*\n)", re.MULTILINE)
"""A line that ends with a choice in lower case."""
LETTER = re.compile(r"(?<![\w'])\(?([A-HJ])(?:[).:]|\**\s*$)", re.MULTILINE)
"""A letter by itself, in brackets, or before a full stop or colon."""
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
    """Return what follows the last "the answer is", up to the end of the line; None if there is none."""
    matches = [*ANSWER_IS.finditer(text)]
    if not matches:
        return None
    line = text[matches[-1].end() :].partition("\n")[0]
    return extract_boxed(line) or line.strip(" \t\r.!?$*") or None


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
    named = [first or second for first, second in CHOICE.findall(text)] or LOWER_CHOICE.findall(text)
    letters = named or LETTER.findall(text)
    return letters[-1].upper() if letters else None


EXTRACTIONS: Mapping[Extraction, Callable[[str], str | None]] = {
    "last_number": extract_last_number,
    "hash": extract_hash,
    "answer_is": extract_answer_is,
    "boxed": extract_boxed,
    "choice_letter": extract_choice_letter,
}
"""The functions by name."""
