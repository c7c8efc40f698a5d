"""Numbers as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.answer_texts.exact_numbers import are_equal_numbers, parse_exact_number, read_number

HALF = Fraction(1, 2)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,200", 1200),
        ("1 200", 1200),
        ("1200.0", 1200),
        (r"1{,}200", 1200),
        ("7.", 7),
        ("007", 7),
        ("+7", 7),
        ("-7", -7),
        ("−7", -7),
        (".5", HALF),
        ("$3.50", Fraction(7, 2)),
        ("-$5", -5),
        ("$-5", -5),
        (r"\$5", 5),
        ("€ 5", 5),
        ("25%", 25),
        (r"25\%", 25),
        ("25 percent", 25),
        ("3/4", Fraction(3, 4)),
        ("-3/4", Fraction(-3, 4)),
        ("1 1/2", Fraction(3, 2)),
        ("½", HALF),
        ("1½", Fraction(3, 2)),
        (r"\frac{1}{2}", HALF),
        (r"\dfrac12", HALF),
        (r"-\frac{1}{2}", -HALF),
        (r"1\frac{1}{2}", Fraction(3, 2)),
        (r"$\frac{1}{2}$", HALF),
        ("1e3", 1000),
        ("2.5E-1", Fraction(1, 4)),
        ("x = 7", 7),
        ("3 + 4 = 7", 7),
        ("18 dollars a day", 18),
        ("12 apples.", 12),
        ("5km", 5),
        ("5 m/s", 5),
        (r"5\text{ cm}", 5),
        (r"6 \text{ units}^2", 6),
        (r"90^\circ", 90),
        ("90°", 90),
        ("3 million", 3_000_000),
        ("12th", 12),
        ("**42**", 42),
        (r"\text{5}", 5),
    ],
)
def test_numbers(text: str, number: Fraction | int) -> None:
    assert parse_exact_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        *("", "seven", "3/0", "5x", "5 x", "2x + 1", r"5\sqrt{2}", r"2\pi", "2 pi", "1,2", "(1,2)", "5 and 6", "3:2"),
        *("1.000.000", "10:30", "5!", "5 dozen", "[1, 2]", "x > 5", r"\frac{x}{2}", "1/2/3", "1e9999"),
    ],
)
def test_texts_that_are_no_number(text: str) -> None:
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("1,000", "1000.0", True),
        ("1/2", "0.5", True),
        ("50%", "50", True),
        ("50%", "0.5", True),
        ("50%", "1/2", True),
        ("50%", "50%", True),
        ("0.5%", "50%", False),
        ("0.5", "50", False),
        ("18 dollars", "$18", True),
        ("1/3", "0.333", False),
        ("seven", "seven", False),
        ("7", "-7", False),
    ],
)
def test_equal_numbers(one: str, other: str, equal: bool) -> None:
    assert are_equal_numbers(one, other) == are_equal_numbers(other, one) == equal


@given(
    st.fractions(max_denominator=10**6), st.sampled_from(["{}", "${}$", r"\text{{{}}}", "x = {}", "{} apples", "{}."])
)
def test_every_fraction_equals_itself_however_it_is_written(number: Fraction, form: str) -> None:
    sign, numerator, denominator = "-" * (number < 0), abs(number.numerator), number.denominator
    texts = [str(number), rf"{sign}\frac{{{numerator}}}{{{denominator}}}"]
    whole, rest = divmod(numerator, denominator)
    if whole and rest:
        texts += [f"{sign}{whole} {rest}/{denominator}", rf"{sign}{whole}\frac{{{rest}}}{{{denominator}}}"]
    for text in texts:
        assert parse_exact_number(form.format(text)) == number


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=4))
def test_every_decimal_equals_itself_however_it_is_written(number: object) -> None:
    value = Fraction(str(number))
    for text in (f"{number:,}", f"${number:,}", f"{number}%", rf"{number}\%", f"{number} km", f"{float(value)!r}"):
        assert parse_exact_number(text) == value
    assert are_equal_numbers(f"{number}%", str(value / 100))


@given(st.text(max_size=20))
def test_any_text_can_be_read(text: str) -> None:
    number = read_number(text)
    assert number is None or isinstance(number.value, Fraction)
