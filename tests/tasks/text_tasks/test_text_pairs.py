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


def test_lists_of_positives_are_pairs_with_each(write: Write) -> None:
    rows = [
        {"anchor": "a", "positive": ["A", "A2"], "no": ["x"]},
        {"anchor": "b", "positive": [], "no": []},
        {"anchor": "c", "positive": ["C"], "no": ["y"]},
        {"anchor": "d", "positive": ["D", "d"], "no": ["D"]},
        {"anchor": "e", "positive": ["E", "E2", "E3"], "no": []},
    ]
    files = {split: str(write(f"{split}.jsonl", rows)) for split in ("train", "dev", "test")}
    pairs = task(path=files, negative_columns=["no"], on_bad_row="skip", max_bad=2)
    split = pairs.load()["train"]
    examples = [pairs.to_example(row) for row in split]
    assert [(each.source, each.target) for each in examples] == [
        *(("a", "A"), ("a", "A2"), ("c", "C")),
        *(("e", "E"), ("e", "E2"), ("e", "E3")),
    ]
    assert [each.documents for each in examples[:3]] == [("A", "x"), ("A2", "x"), ("C", "y")]
    assert [each.group for each in examples[:2]] == ["a", "a"]
    fresh = task(path=files, negative_columns=["no"], on_bad_row="skip", max_bad=2)
    assert [fresh.describe_row("train", index) for index in (1, 2, 5)] == [
        f"{files['train']}, row {n}" for n in (1, 3, 5)
    ]
    reasons = {(row.row, row.reason) for row in pairs.skipped_rows() if row.split == "train"}
    assert reasons == {
        (2, "positive: has no positive"),
        (4, "no: the hard negative 'D' is a positive of the row; remove it"),
    }


def test_lists_of_positives_are_recognized(write: Write) -> None:
    rows = [{"query": f"q {i}", "positives": [f"p {i}", f"p {i} b"]} for i in range(8)]
    [match] = TextPairs.recognize(str(write("train.jsonl", rows)))
    assert (match.options["anchor_column"], match.options["positive_column"]) == ("query", "positives")
    assert match.reason == "'query' and each text of 'positives' are texts that belong together"


def test_lists_of_positives_are_not_streamed() -> None:
    with pytest.raises(RowError, match="positive: a list of positives cannot be streamed; write a row for each"):
        task(streaming=True).to_example({"anchor": "a", "positive": ["A", "B"]})
