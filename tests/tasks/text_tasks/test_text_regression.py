"""Regression on the user's own data."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from peftkit import Example
from peftkit.errors import InputError, RowError
from peftkit.tasks.text_tasks.text_regression import TextRegression
from tests.tasks.conftest import Write


def task(**options: Any) -> TextRegression:
    return TextRegression(**{"path": "data", **options})


def test_a_row_becomes_a_prompt_and_a_number() -> None:
    example = task().to_example({"text": "A dog runs.", "target": "3.80"})
    assert example == Example("score: A dog runs.", "3.80", truncatable_span=(7, 18))


def test_pairs_are_read_as_pairs_by_encoders_and_as_a_prompt_by_others() -> None:
    pairs = task(text_column="a", text_pair_column="b", target_column="score")
    example = pairs.to_example({"a": "A dog runs.", "b": "A cat runs.", "score": 2.5})
    assert example.source == "score: sentence1: A dog runs. sentence2: A cat runs."
    assert (example.source_pair, example.target) == (("A dog runs.", "A cat runs."), "2.5")
    prompted = task(text_column="a", text_pair_column="b", target_column="score", prompt="stsb {a} / {b}")
    assert prompted.to_example({"a": "x", "b": "y", "score": 2}).source_pair is None


def test_symmetric_pairs_are_marked_and_need_two_texts() -> None:
    pairs = task(text_pair_column="b", symmetric=True)
    assert pairs.to_example({"text": "x", "b": "y", "target": 1}).symmetric
    with pytest.raises(ValidationError, match="symmetric: has no effect, because text_pair_column is not set"):
        task(symmetric=True)
    with pytest.raises(ValidationError, match="symmetric: has no effect, because prompt decides"):
        task(text_pair_column="b", symmetric=True, prompt="{text} {b}")


def test_several_targets_have_the_names_of_their_columns() -> None:
    both = task(target_columns=["valence", "arousal"])
    example = both.to_example({"text": "joy", "valence": 4, "arousal": "2.5"})
    assert (example.target, example.extra) == ("4, 2.5", {"valence": "4", "arousal": "2.5"})
    assert both.targets == ("valence", "arousal")
    assert both.to_prompt({"text": "joy"}) == Example("score: joy", "", truncatable_span=(7, 10))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("high", "must be a number, such as 3.5, not 'high'"),
        ("3,5", "must be a number, such as 3.5, not '3,5'"),
        ("nan", "must be a number, such as 3.5, not 'nan'"),
        (True, "must be a number, not True"),
        (" ", "is empty"),
        (None, "is empty"),
        (float("inf"), "must be a text, not inf"),
    ],
)
def test_other_targets_are_errors(value: Any, message: str) -> None:
    with pytest.raises(RowError) as error:
        task().to_example({"text": "a", "target": value})
    assert str(error.value) == f"target: {message}"


def test_numbers_of_32_bits_are_written_as_they_were_meant(write: Write) -> None:
    path = write("data/train.parquet", [])
    table = pa.table({"text": ["a", "b"], "target": pa.array([3.2, 0.1], pa.float32()), "wide": [3.2, 1 / 3]})
    for split in ("train", "validation", "test"):
        pq.write_table(table, path.with_name(f"{split}.parquet"))
    rows = list(task(path=str(path.parent)).load()["train"])
    assert [task().to_example(row).target for row in rows] == ["3.2", "0.1"]
    assert [task(target_column="wide").to_example(row).target for row in rows] == ["3.2", "0.3333333333333333"]


def test_invalid_options_are_explained() -> None:
    with pytest.raises(ValidationError, match="has one column; use target_column = 'a'"):
        task(target_columns=["a"])
    with pytest.raises(ValidationError, match="'a' occurs twice; keep one"):
        task(target_columns=["a", "a"])
    with pytest.raises(ValidationError, match="target_column: has no effect, because target_columns"):
        task(target_columns=["a", "b"], target_column="c")
    with pytest.raises(ValidationError, match=r"the field \{a\} contains the answer"):
        task(target_columns=["a", "b"], prompt="{text} {a}")


def test_a_missing_column_of_numbers_is_found_before_training(write: Write) -> None:
    for split in ("train", "validation", "test"):
        path = write(f"data/{split}.csv", [{"text": "a", "score": "1"}])
    with pytest.raises(InputError, match=r"target_column: there is no column 'target' .*; columns: score, text"):
        task(path=str(path.parent)).load()


def test_more_than_two_numbers_are_recognized(write: Write) -> None:
    rows = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "score": i / 4} for i in range(20)]
    [match] = TextRegression.recognize(str(write("data/train.jsonl", rows)))
    columns = {"text_column": "sentence1", "text_pair_column": "sentence2", "target_column": "score"}
    assert match.options.items() >= columns.items()
    flags = [{**row, "score": i % 2} for i, row in enumerate(rows)]
    assert TextRegression.recognize(str(write("flags/train.jsonl", flags))) == []
