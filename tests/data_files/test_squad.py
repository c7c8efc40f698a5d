"""Files in the form of SQuAD."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftkit.data_files import SquadFormat
from peftkit.errors import InputError

ANSWERS = [{"text": "b", "answer_start": 2}]
QUESTIONS = [
    {"id": "1", "question": "q?", "answers": ANSWERS, "is_impossible": False},
    {"id": "2", "question": "r?", "answers": [], "plausible_answers": ANSWERS, "is_impossible": True},
]
FILE: Any = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "a b", "qas": QUESTIONS}]}]}


def read(folder: Path, content: Any) -> list[dict[str, Any]]:
    file = folder / "x.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return [*SquadFormat("q", "c", "a").read(str(file))]


def test_each_question_is_a_row(tmp_path: Path) -> None:
    assert read(tmp_path, FILE) == [
        {"id": "1", "title": "t", "q": "q?", "c": "a b", "a": ANSWERS},
        {"id": "2", "title": "t", "q": "r?", "c": "a b", "a": []},
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not valid JSON"),
        ([], "has no list 'data'"),
        ({"data": [{"paragraphs": {}}]}, r"data\[0\]: has no list 'paragraphs'"),
        ({"data": [{"paragraphs": [1]}]}, r"data\[0\], paragraphs\[0\]: must be an object"),
        ({"data": [{"paragraphs": [{"qas": [{"question": "x"}]}]}]}, "has no question or no context"),
    ],
)
def test_other_forms_are_named(content: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected):
        read(tmp_path, content)
