"""Questions whose answers are spans of a context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import RowError
from peftkit.tasks import SpanQa

CONTEXT = "Anna was born in Oslo in 1901."
TASK = SpanQa(path="x.jsonl")


def row(answers: Any, **columns: Any) -> dict[str, Any]:
    return {"question": "Where?", "context": CONTEXT, "answers": answers, **columns}


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Oslo", "in Oslo", "Oslo"], "answer_start": [17, 14, 17]},
        [{"text": "Oslo", "answer_start": 17}, {"text": "in Oslo", "answer_start": 14}],
    ],
)
def test_the_first_answer_is_trained_and_all_are_references(answers: Any) -> None:
    example = TASK.to_example(row(answers))
    assert (example.target, example.references, example.target_span) == ("Oslo", ("Oslo", "in Oslo"), (17, 21))
    assert example.source == f"question: Where? context: {CONTEXT}"
    assert example.source_pair == ("Where?", CONTEXT)
    assert example.group == CONTEXT
    assert example.truncatable_span == (len(example.source) - len(CONTEXT), len(example.source))
    prompt = TASK.to_prompt({"question": "Where?", "context": CONTEXT})
    assert (prompt.source, prompt.source_pair, prompt.target) == (example.source, example.source_pair, "")


def test_blanks_around_an_answer_do_not_belong_to_it() -> None:
    example = TASK.to_example(row({"text": " Oslo ", "answer_start": 16}))
    assert (example.target, example.target_span) == ("Oslo", (17, 21))


@pytest.mark.parametrize("answers", [None, [], {"text": [], "answer_start": []}])
def test_questions_without_an_answer_are_refused_or_allowed(answers: Any) -> None:
    with pytest.raises(RowError, match="answers: has no answer; set allow_no_answer = true"):
        TASK.to_example(row(answers))
    example = SpanQa(path="x.jsonl", allow_no_answer=True).to_example(row(answers))
    assert (example.target, example.references, example.target_span) == ("unanswerable", ("",), None)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"text": ["Oslo"], "answer_start": [16]}, "'Oslo' is not at 16, where the context has ' Osl'; it is at 17"),
        ({"text": ["Rome"], "answer_start": [17]}, "where the context has 'Oslo'; the context does not contain it"),
        ({"text": ["Oslo"], "answer_start": [-13]}, "is not at -13"),
        ({"text": ["Oslo"], "answer_start": []}, "as many of text as of answer_start"),
        ({"text": [" "], "answer_start": [4]}, "not blank"),
        ({"text": ["Oslo"], "answer_start": ["17"]}, "answer_start must be a whole number, not '17'"),
        ("Oslo", "must be a table of text and answer_start"),
    ],
)  # fmt: skip
def test_answers_that_are_not_in_the_context(answers: Any, expected: str) -> None:
    with pytest.raises(RowError, match=expected):
        TASK.to_example(row(answers))


def test_files_of_squad(tmp_path: Path) -> None:
    question = {"id": "1", "question": "Where?", "answers": [{"text": "Oslo", "answer_start": 17}]}
    content = {"data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": [question] * 3}]}]}
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    task = SpanQa(path=str(tmp_path), file_format="squad")
    rows = task.load()["dev"]
    assert len(rows) == 3
    assert task.to_example(rows[1]).target == "Oslo"
    assert task.describe_row("dev", 2).endswith("dev.json, row 3")
    assert task.find_data_problems() == []
