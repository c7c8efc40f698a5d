from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.answer_texts.number_texts import format_number, parse_numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.284123456, "3.284123456"),
        (1_700_000_000.123456, "1700000000.123456"),
        (1.23456789e-06, "0.00000123456789"),
        (1e22, "10000000000000000000000"),
        (0.0, "0.0"),
        (-2.5, "-2.5"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers_are_written_without_exponent(value: float, text: str) -> None:
    assert format_number(value) == text
    assert parse_numbers(text) is not None


@given(st.floats(allow_nan=False))
def test_no_digit_of_a_number_is_lost(value: float) -> None:
    assert parse_numbers(format_number(value)) == (value,)


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
