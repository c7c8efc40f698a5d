"""Scored pairs on the user's own data."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from peftkit.errors import MissingFieldsError, RowError
from peftkit.tasks.text_tasks.text_similarity import TextSimilarity
from tests.tasks.conftest import Write

ROW = {"sentence1": "a dog runs", "sentence2": "a cat runs", "score": "0.25"}


def task(**options: Any) -> TextSimilarity:
    return TextSimilarity(**{"path": "data", **options})


@pytest.mark.parametrize(
    ("options", "score", "target"),
    [
        ({}, "0.25", "0.25"),
        ({}, -1, "-1"),
        ({"score_range": [0, 5]}, "3.8", "0.76"),
        ({"score_range": [1, 4]}, 4, "1.0"),
    ],
)
def test_a_row_becomes_a_pair_and_a_score(options: dict[str, Any], score: Any, target: str) -> None:
    example = task(**options).to_example({**ROW, "score": score})
    assert (example.source_pair, example.target) == (("a dog runs", "a cat runs"), target)


def test_rows_to_predict_need_both_texts() -> None:
    prompt = task().to_prompt({key: ROW[key] for key in ("sentence1", "sentence2")})
    assert (prompt.source_pair, prompt.target) == (("a dog runs", "a cat runs"), "")
    with pytest.raises(MissingFieldsError, match="sentence2"):
        task().to_prompt({"sentence1": "x"})


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({"score": 3.8}, {}, r"score: must be from -1 to 1, not 3.8; set score_range to the lowest and highest score"),
        ({"score": 6}, {"score_range": [0, 5]}, "score: must be from 0 to 5, not 6$"),
        ({"score": "high"}, {}, "score: must be a number"),
        ({"sentence2": " "}, {}, "sentence2: is empty"),
    ],
)
def test_invalid_rows_are_refused(changes: dict[str, Any], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        task(**options).to_example({**ROW, **changes})


def test_options_are_checked() -> None:
    with pytest.raises(ValidationError, match="the lowest score must be below the highest"):
        task(score_range=[5, 0])
    with pytest.raises(ValidationError, match="prompt: has no effect"):
        task(prompt="{text1}")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.5, 1.0, 0.0], {}), ([0.5, 4.2, 3], {"score_range": [0.0, 5.0]}), ([1, 0, 1], None), (["a", "b", "c"], None)],
)
def test_scores_are_recognized(scores: list[Any], expected: dict[str, Any] | None, write: Write) -> None:
    rows = [{**ROW, "score": score} for score in scores]
    matches = TextSimilarity.recognize(str(write("data.jsonl", rows)))
    if expected is None:
        assert not matches
        return
    [match] = matches
    columns = {"text1_column": "sentence1", "text2_column": "sentence2", "score_column": "score"}
    assert match.options.items() >= {**columns, **expected}.items()
    assert ("score_range" in match.options) == bool(expected)
