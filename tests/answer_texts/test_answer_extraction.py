"""Answers that end an explanation."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.answer_texts.answer_extraction import (
    extract_answer_is,
    extract_boxed,
    extract_choice_letter,
    extract_hash,
    extract_last_number,
)
from peftkit.answer_texts.exact_numbers import parse_exact_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7 eggs.", "7"),
        ("That is $1,234.50.", "$1,234.50"),
        ("It grew by 25%", "25%"),
        ("so -3", "-3"),
        ("x = .5", ".5"),
        ("three quarters, 3/4, remain", "3/4"),
        ("In 2,000 and 20,00", "00"),
        ("Model B2B has none", None),
        ("no number", None),
        ("", None),
        ("7.", "7"),
        ("between 3-5", "5"),
        ("1.2.3", "1.2"),
        ("It holds 3 1/2 cups", "3 1/2"),
        (r"so x = -\frac{3}{4}", r"-\frac{3}{4}"),
        (r"about 50\% of it", r"50\%"),
        ("6.02e23 of them", "6.02e23"),
        ("£1,000,000 each", "£1,000,000"),
        ("at 7/10/2020", "2020"),
        ("room A5", None),
        ("10{,}000 of them", "10{,}000"),
        (r"$1,\!000$", r"$1,\!000"),
        (r"12\,500 m", r"12\,500"),
        ("1\u202f000\u00a0000 in all", "1\u202f000\u00a0000"),
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert extract_last_number(text) == number


@given(st.integers(-(10**9), 10**9), st.sampled_from([",", "{,}", r",\!", r"\,", "\u00a0", "\u202f", "\u2009"]))
def test_every_integer_is_extracted_and_parsed(number: int, separator: str) -> None:
    for text in (str(number), f"{number:,}".replace(",", separator)):
        extracted = extract_last_number(f"The answer is {text}.")
        assert extracted == text
        assert parse_exact_number(text) == number


@given(st.decimals(min_value=-1000, max_value=1000, places=3))
def test_every_decimal_is_extracted_and_parsed(number: object) -> None:
    assert extract_last_number(f"so x = {number} metres") == str(number)
    assert parse_exact_number(str(number)) == Fraction(str(number))


def test_the_line_after_hashes() -> None:
    assert extract_hash("3 + 4 = 7\n#### 7\n") == "7"
    assert extract_hash("#### 1\n#### two words") == "two words"
    assert extract_hash("## 7") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("x is 7.\nThe answer is: 7", "7"),
        ("The answer is: 5. No, the final answer is 6!\nBye", "6"),
        (r"the correct answer is $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        ("The answer is: $18 a day.", "18 a day"),
        ("The answer is:", None),
        ("The answer is:\n\n**12**\n", "12"),
        ("The answer was 3", None),
    ],
)
def test_the_answer_that_a_sentence_names(text: str, answer: str | None) -> None:
    assert extract_answer_is(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"Hence \boxed{42}.", "42"),
        (r"\boxed{1} or \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox{x^{2}}", "x^{2}"),
        (r"\boxed{1", None),
        ("boxed{1}", None),
        (r"so $\boxed 5$.", "5"),
        (r"\boxed {4}", "4"),
        (r"\boxed{1} and \boxed{2", None),
    ],
)
def test_the_last_box(text: str, answer: str | None) -> None:
    assert extract_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (B).", "B"),
        ("The answer is B", "B"),
        ("answer: c", "C"),
        ("B", "B"),
        ("(D)", "D"),
        ("A. because it is a bird", "A"),
        ("It is neither A) nor B), so the answer is **C**", "C"),
        ("I think so", None),
        ("The answer is a bird", None),
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{(C)}}", "C"),
        ("Answer: **D**", "D"),
        ("The correct option is (b)", "B"),
        ("So it is\n\nC.\n", "C"),
        ("Option A is wrong. The answer is D because A dog barks.", "D"),
        ("", None),
        ("b)", "B"),
        ("<answer>B</answer>", "B"),
        (r"\boxed{\textbf{C}}", "C"),
        ("A is the right answer", "A"),
        ("The answer is C. A is correct in part only.", "C"),
        ("It must be C because I know", None),
    ],
)
def test_the_letter_of_a_choice(text: str, letter: str | None) -> None:
    assert extract_choice_letter(text) == letter
