"""Numbers as people and LaTeX write them, compared exactly: ``1,000``, ``$3.50``, ``1/2``, ``25%``, ``18 dollars``."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

MINUS = "−"
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
"""Words after a number that multiply it."""
NOT_UNITS = ("pi", "sqrt", "dozen", "or", "and", "to", "times", "plus", "minus")
"""Words after a number that are no unit, so that the text is more than a number."""
SHORT_UNITS = (
    *("km", "cm", "mm", "m", "kg", "g", "mg", "lb", "lbs", "oz", "ft", "in", "yd", "mi", "mph", "kph", "s", "h", "hr"),
    *("hrs", "min", "mins", "l", "ml", "am", "pm", "th"),
)
"""Units that may follow a number without a space."""
MARKUP = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
UNIT_POWER = re.compile(r"(?<=[A-Za-z]{2})\s*\}?\s*\^\s*\{?[23]\}?")
DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°")
REMOVED = re.compile(r"\\[!;:,> ]|\\left|\\right|\\\$|\$|[*~≈]|\\approx|\\quad|\{,\}(?!\d{3})")
NUMBER = re.compile(
    r"""
    \s* (?P<sign>[-+]?) \s* [€£¥₹]? \s* (?P<inner_sign>[-+]?)
    (?: (?:(?P<whole>\d+)\s+)? (?P<numerator>\d+) \s* / \s* (?P<denominator>\d+)
      | (?P<decimal> (?: \d{1,3}(?:[,\s]\d{3})+ | \d+ )? (?:\.\d*)? (?:[eE][-+]?\d{1,3})? )
    )
    (?P<percent> \s*\\?% | \s+per\s?cent\b )?
    (?P<unit> [^\d=+<>\\_{}|,;:]* )
    """,
    re.VERBOSE,
)
"""One number and its unit, after markup has been removed."""


class ExactNumber(NamedTuple):
    """The value of a number."""

    value: Fraction
    is_percentage: bool
    """Whether a percent sign follows it, which the value ignores."""


def read_number(text: str) -> ExactNumber | None:
    """Return the number that a text is; None if it is something else, such as a formula or two numbers.

    Args:
        text: The text; LaTeX, currencies and units are allowed, as is an equation, of which the right side counts.
    """
    match = NUMBER.fullmatch(_plain_text(text))
    if match is None:
        return None
    unit = match["unit"].strip(" .'\"()\t\n")
    scale = _scale_of(unit, spaced=match["unit"][:1].isspace() or match["percent"] is not None)
    if scale is None:
        return None
    try:
        if match["numerator"]:
            value = Fraction(int(match["numerator"]), int(match["denominator"])) + int(match["whole"] or 0)
        else:
            value = Fraction(re.sub(r"[,\s]", "", match["decimal"]).removesuffix("."))
    except (ValueError, ZeroDivisionError):
        return None
    negative = (match["sign"] + match["inner_sign"]).count("-") % 2
    return ExactNumber((-value if negative else value) * scale, match["percent"] is not None)


def parse_exact_number(text: str) -> Fraction | None:
    """Return the exact value of a number; None if the text is no number.

    Args:
        text: The text, such as ``1,200``, ``$3.50``, ``25%`` or ``3/4``. A percent sign is ignored.
    """
    number = read_number(text)
    return None if number is None else number.value


def are_equal_numbers(one: str, other: str) -> bool:
    """Return whether two texts are the same number. A percentage equals both its number and its hundredth.

    Args:
        one: A text.
        other: Another text.
    """
    first, second = read_number(one), read_number(other)
    if first is None or second is None:
        return False
    if first.value == second.value:
        return True
    if first.is_percentage == second.is_percentage:
        return False
    percentage, number = (first, second) if first.is_percentage else (second, first)
    return percentage.value == 100 * number.value


def _plain_text(text: str) -> str:
    """Return a text with the right side of an equation only, and without markup."""
    text = text.rpartition("=")[2].replace(MINUS, "-").replace("{,}", ",").replace("\N{NO-BREAK SPACE}", " ")
    text = "".join(f" {unicodedata.normalize('NFKC', c)}" if _is_fraction(c) else c for c in text)
    text = text.replace("\N{FRACTION SLASH}", "/")
    text = FRACTION.sub(lambda match: f" {match[1] or match[3]}/{match[2] or match[4]}", text)
    text = UNIT_POWER.sub("", MARKUP.sub(r" \1", text))
    return REMOVED.sub("", DEGREES.sub(" degrees", text)).strip()


def _is_fraction(character: str) -> bool:
    return unicodedata.decomposition(character).startswith("<fraction>")


def _scale_of(unit: str, *, spaced: bool) -> int | None:
    """Return what a unit multiplies a number by; None if it is no unit.

    Args:
        unit: What follows the number.
        spaced: Whether there is a space between them.
    """
    words = unit.lower().split()
    if not words:
        return 1
    if words[0] in SCALES:
        return SCALES[words[0]]
    if words[0] in NOT_UNITS or not words[0][0].isalpha():
        return None
    first = words[0].rstrip(".,")
    if not spaced:
        return 1 if first.partition("/")[0] in SHORT_UNITS else None
    return 1 if len(first) > 1 or first in SHORT_UNITS or len(words) > 1 else None
