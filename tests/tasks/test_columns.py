from __future__ import annotations

from typing import Any

import pytest

from peftkit import RowError
from peftkit.tasks.columns import LETTERS, check_choices, get_text, get_texts, get_value, match_choice

ROW: dict[str, Any] = {
    "question": "q",
    "number": 7,
    "choices": {"label": ["A", "B"], "text": ["x", "y"]},
    "listed": [{"text": "x"}, {"text": "y"}],
    "a.b": "dotted",
    "none": None,
    "nested": {"none": None},
    "flag": True,
}


def test_dots_select_nested_fields_and_fields_of_lists() -> None:
    assert get_value(ROW, "choices.text") == get_value(ROW, "listed.text") == ["x", "y"]
    assert get_value(ROW, "a.b") == "dotted"
    assert get_text(ROW, "number") == "7"
    assert get_texts(ROW, ["choices.text"]) == get_texts(ROW, ["listed.text"])
    assert get_texts(ROW, ["question", "number"]) == ["q", "7"]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("questoin", "questoin: there is no such field .did you mean 'question'"),
        ("choices.texts", "choices.texts: there is no such field"),
        ("question.x", "question.x: there is no such field"),
        ("none", "none: is empty"),
        ("none.x", "none.x: is empty"),
        ("nested.none.x", "nested.none.x: is empty"),
        ("flag", "flag: must be a text, not True"),
        ("choices", "choices: must be a text, not {'label'"),
    ],
)
def test_missing_fields_and_other_types_are_errors(column: str, words: str) -> None:
    with pytest.raises(RowError, match=words):
        get_text(ROW, column)


def test_lists_must_hold_texts() -> None:
    with pytest.raises(RowError, match="must be a list of texts, not 'q'"):
        get_texts(ROW, ["question"])
    assert get_texts({"c": ["x", 1]}, ["c"]) == ["x", "1"]
    with pytest.raises(RowError, match="must be a list of texts, but contains None"):
        get_texts({"c": ["x", None]}, ["c"])


CHOICES = ["cat", "dog ", "B", "7"]


@pytest.mark.parametrize(
    ("given", "answer_is", "index"),
    [
        ("A", "auto", 0),
        (" D ", "label", 3),
        ("dog", "auto", 1),
        ("cat", "text", 0),
        ("B", "label", 1),
        ("B", "text", 2),
        (2, "index", 2),
        (3, "number", 2),
        ("1", "number", 0),
        (0, "index", 0),
        ("2", "index", 2),
        ("7", "auto", 3),
    ],
)
def test_an_answer_is_a_label_a_number_or_a_text(given: object, answer_is: Any, index: int) -> None:
    assert match_choice(given, CHOICES, LETTERS[:4], answer_is, "answer") == index


@pytest.mark.parametrize(
    ("given", "answer_is", "words"),
    [
        ("E", "auto", "the answer 'E' is not among the choices .labels A, B, C, D; choices 'cat', "),
        ("bird", "text", "the answer 'bird' is not among the choices"),
        ("1", "auto", "; numbers need answer_is = 'index' \\(from 0\\) or 'number' \\(from 1\\)"),
        (2, "auto", "the answer 2 is not among the choices .*; numbers need answer_is = 'index'"),
        (4, "index", "4 is out of range for 4 choices, counted from 0"),
        (0, "number", "0 is out of range for 4 choices, counted from 1"),
        ("9", "index", "9 is out of range for 4 choices"),
        ("B", "auto", "may be a label or a text; set answer_is"),
        (True, "index", "is not among the choices"),
        (-1, "index", "-1 is out of range for 4 choices"),
        ("", "label", "is not among the choices"),
    ],
)
def test_unknown_and_ambiguous_answers_are_errors(given: object, answer_is: Any, words: str) -> None:
    with pytest.raises(RowError, match=words):
        match_choice(given, CHOICES, LETTERS[:4], answer_is, "answer")


def test_duplicate_choices_are_an_error() -> None:
    check_choices(["a", "b", "A"], "choices")
    with pytest.raises(RowError, match="choices: has the choice 'a' twice"):
        check_choices(["a", "b", " a "], "choices")
