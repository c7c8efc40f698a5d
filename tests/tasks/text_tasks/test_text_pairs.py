"""Anchors, positives and hard negatives on the user's own data."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from peftkit import Example
from peftkit.errors import InputError, MissingFieldsError, RowError
from peftkit.tasks.text_tasks.text_pairs import TextPairs
from tests.tasks.conftest import Write

ROW = {"anchor": "why is it wet", "positive": "it rained", "no1": "it is dry", "more": ["a", "b"]}


def task(**options: Any) -> TextPairs:
    return TextPairs(**{"path": "data", **options})


def test_a_row_becomes_an_anchor_and_its_documents() -> None:
    plain = Example("why is it wet", "it rained", documents=("it rained",), group="why is it wet")
    assert task().to_example(ROW) == plain
    example = task(negative_columns=["no1", "more"]).to_example(ROW)
    assert example.documents == ("it rained", "it is dry", "a", "b")
    assert task(negative_columns=["no1"]).to_example({**ROW, "no1": None}).documents == ("it rained",)
    assert task(group_column="no1").to_example(ROW).group == "it is dry"


def test_rows_to_predict_need_an_anchor_and_may_have_documents() -> None:
    assert task().to_prompt({"anchor": "why"}) == Example("why", "")
    assert task().to_prompt(ROW).documents == ("it rained",)
    with pytest.raises(MissingFieldsError, match="question"):
        task(anchor_column="question").to_prompt(ROW)


@pytest.mark.parametrize(
    ("changes", "column", "reason"),
    [
        ({"anchor": " "}, "anchor", "is empty"),
        ({"positive": ""}, "positive", "is empty"),
        ({"positive": None}, "positive", "is empty"),
        ({"no1": " it  rained"}, "no1", "is the positive of the row; remove it"),
        ({"more": ["x", " "]}, "more", "is empty"),
        ({"more": [["x"]]}, "more", "must be a list of texts"),
    ],
)
def test_invalid_rows_are_refused(changes: dict[str, Any], column: str, reason: str) -> None:
    with pytest.raises(RowError, match=reason) as error:
        task(negative_columns=["no1", "more"]).to_example({**ROW, **changes})
    assert column in str(error.value)


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(ValidationError, match="prompt: has no effect, because texts are read as they are"):
        task(prompt="query: {anchor}")
    with pytest.raises(ValidationError, match="'a' occurs twice; keep one"):
        task(negative_columns=["a", "a"])


def test_wrong_columns_are_named(write: Write) -> None:
    path = write("train.jsonl", [{**ROW, "anchor": f"question {i}"} for i in range(10)])
    with pytest.raises(InputError, match=r"negative_columns: there is no column 'no2' \(did you mean 'no1'\?\)"):
        task(path=str(path), dev_fraction=0.2, test_fraction=0.2, negative_columns=["no2"]).load()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"anchor": "x y", "positive": "z"}, {"anchor_column": "anchor", "positive_column": "positive"}),
        (
            {"query": "x", "pos": "y", "neg_1": "z", "negatives": ["u"]},
            {"anchor_column": "query", "positive_column": "pos", "negative_columns": ["neg_1", "negatives"]},
        ),
        ({"text": "x", "label": "y"}, None),
    ],
)
def test_columns_are_recognized(row: dict[str, Any], expected: dict[str, Any] | None, write: Write) -> None:
    matches = TextPairs.recognize(str(write("data.jsonl", [row, row])))
    options = [{k: v for k, v in each.options.items() if k.endswith(("column", "columns"))} for each in matches]
    assert options == ([] if expected is None else [expected])
