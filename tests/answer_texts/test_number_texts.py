from __future__ import annotations

import math

import pytest

from peftkit.answer_texts.number_texts import format_number, parse_numbers


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (3.284123456, 1.0, "3.28412"),
        (1_700_000_000.123456, 1.0, "1700000000.12346"),
        (512_345.678, 98_000.0, "512345.7"),
        (0.00000123456789, 1.0, "0.00000123457"),
        (0.0, 1.0, "0.00000"),
        (-2.5, 1.0, "-2.50000"),
        (math.nan, 1.0, "nan"),
        (-math.inf, 1.0, "-inf"),
    ],
)
def test_numbers_keep_six_digits_of_their_scale(value: float, scale: float, text: str) -> None:
    assert format_number(value, scale) == text
    assert parse_numbers(text) is not None


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3.5", (3.5,)),
        (" -1e-3 , .5", (-0.001, 0.5)),
        ("3.5.", None),
        ("about 3", None),
        ("1_000", None),
        ("", None),
        ("3,", None),
    ],
)
def test_only_numbers_are_parsed(text: str, numbers: tuple[float, ...] | None) -> None:
    assert parse_numbers(text) == numbers
