"""Scores of extracted answers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from peftkit import Example
from peftkit.metrics import ExtractedMatch, Unextractable

SOLUTION = "Ann has 3 eggs and finds 4. 3 + 4 = 7.\n#### 7"


def score(metric: ExtractedMatch | Unextractable, prediction: str, reference: str = SOLUTION) -> float:
    return metric.compute([prediction], [[reference]], [Example("", reference)])[metric.name]


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("#### 7", 1),
        ("So she has 7.0 eggs", 1),
        (r"\boxed{7}", 1),
        ("It is 7, not 8", 0),
        ("#### 7\nBy the way, 12 is even.", 1),
        ("seven", 0),
        ("", 0),
    ],
)
def test_the_extracted_answer_is_compared(prediction: str, right: float) -> None:
    assert score(ExtractedMatch(), prediction) == right


def test_several_references_and_rows() -> None:
    metric = ExtractedMatch()
    values = metric.compute(["1", "2"], [["0", "1.0"], ["3"]], [Example("", "0"), Example("", "3")])
    assert values == {"extracted_match": 0.5}
    assert metric.compute_per_example(["1", "2"], [["1"], ["3"]], [Example("", "1"), Example("", "3")]) == [
        {"extracted_match": 1.0},
        {"extracted_match": 0.0},
    ]


def test_the_share_without_an_answer() -> None:
    assert score(Unextractable(), "no idea") == 1
    assert score(Unextractable(), "3") == 0
    assert score(Unextractable(extract=("hash",)), "3") == 1


def test_a_pattern_takes_its_group_or_the_whole_match() -> None:
    assert score(ExtractedMatch(pattern=r"answer: (\w+)"), "answer: x, answer: seven", "seven") == 1
    assert score(ExtractedMatch(pattern=r"\b[a-z]+\b"), "one two", "two") == 1
    assert score(Unextractable(pattern=r"answer: (\w+)"), "seven") == 1


def test_choices() -> None:
    metric = ExtractedMatch(extract=("choice_letter",), equality="text")
    assert score(metric, "Because of x, the answer is (B).", "B") == 1
    assert score(metric, "A.", "B") == 0


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        (r"\boxed{\frac{1}{2}}", "0.5", 1),
        (r"\boxed{x^2 + 2x + 1}", r"\boxed{(x+1)^2}", 1),
        (r"\boxed{(1,2)}", r"\boxed{(2,1)}", 0),
        (r"\boxed{\frac{1}{3}}", "0.5", 0),
    ],
)
def test_formulas_are_compared_by_math_verify(prediction: str, reference: str, right: float) -> None:
    metric = ExtractedMatch(extract=("boxed",), equality="symbolic")
    assert score(metric, prediction, reference) == right


def test_without_math_verify_formulas_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"symbolic needs math-verify; install peftkit\[math\]"):
        ExtractedMatch(equality="symbolic")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "("}, "is not a regular expression"),
        ({"pattern": "(a)(b)"}, "has 2 groups; at most one"),
        ({"extract": ()}, "must not be empty"),
        ({"extract": ("last",)}, "Input should be"),
    ],
)
def test_invalid_options(options: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExtractedMatch(**options)


def test_references_without_an_answer_are_counted_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    metric = ExtractedMatch(extract=("hash",))
    for _ in range(2):  # at every evaluation
        values = metric.compute(["#### 4", "#### 5", "x"], [["#### 4"], ["5"], ["#### 6"]], [])
        assert values == {"extracted_match": pytest.approx(2 / 3)}
    assert caplog.text.count("extracted_match: 1 of 3 rows have a reference without an answer to extract") == 1


def test_extract_and_pattern_exclude_each_other() -> None:
    assert ExtractedMatch(pattern="x").extract == ("hash", "boxed", "last_number")
    with pytest.raises(ValidationError, match="extract: has no effect, because pattern finds the answer"):
        ExtractedMatch(pattern="x", extract=("hash",))
