"""Rows of any JSON values are stored exactly."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.tasks import MultipleChoice, TextClassification, TextGeneration
from peftkit.tasks.sources.arrow_columns import make_dataset
from peftkit.tasks.sources.files import load_files
from tests.tasks.conftest import Write
from tests.tasks.table_files import examples, load_rows

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), JSON_VALUES, min_size=1), min_size=1, max_size=6), st.booleans()
)
@settings(max_examples=60, deadline=None, database=None)
def test_any_json_rows_round_trip(rows: list[dict[str, Any]], lines: bool) -> None:
    columns = dict.fromkeys(column for row in rows for column in row)
    expected = [{column: row.get(column) for column in columns} for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ("a.jsonl" if lines else "a.json")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows))
        loaded = load_rows([str(file)])
    assert [typed(row) for row in loaded] == [typed(row) for row in expected]


def typed(value: Any) -> str:
    """Serializes a value with its types: 1, 1.0 and true differ."""
    return json.dumps(value)


def test_columns_and_types_may_appear_late(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftkit.tasks.sources.arrow_columns.CHUNK", 3)
    rows: list[dict[str, Any]] = [{"text": f"t{i}", "label": "ab"[i % 2], "n": i} for i in range(10)]
    rows[7] |= {"extra": {"deep": [1, "x"]}, "n": 2.5}
    rows[9] |= {"extra": "text", "n": "last"}
    file = str(write("a.jsonl", rows))
    loaded = load_rows([file])
    assert [row["n"] for row in loaded] == [0, 1, 2, 3, 4, 5, 6, 2.5, 8, "last"]
    assert [type(row["n"]) for row in loaded[:2]] == [int, int]
    assert [row["extra"] for row in loaded] == [None] * 7 + [{"deep": [1, "x"]}, None, "text"]
    assert [row["n"] for row in load_rows([file], streaming=True)] == [row["n"] for row in rows]
    task = TextClassification(path={"train": file, "dev": file, "test": file})
    assert [example.target for example in examples(task)] == [row["label"] for row in rows]


def test_empty_datasets_lone_surrogates_and_large_integers() -> None:
    assert len(make_dataset([])) == 0
    assert make_dataset([{"a": "\ud800"}, {"a": None}, {"a": "x"}])["a"][:] == ["\ud800", None, "x"]
    assert make_dataset([{"a": 10**30}, {"a": 1}])["a"][:] == [10**30, 1]


@pytest.mark.parametrize("literal", ["2.50", "1e3", "1.0", "0.1", "1E-7", "3", "12345678901234567890.125", "-0.0"])
@pytest.mark.parametrize("other", ["0.5", "7", "null", '"x"'])
@pytest.mark.parametrize("streaming", [False, True])
def test_json_numbers_that_are_used_as_text_keep_their_format(
    literal: str, other: str, streaming: bool, tmp_path: Path
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"source": "a", "target": {literal}, "unread": {other}}}\n' * 2 + f'{{"target": {other}}}\n')
    rows = load_files({"train": [str(file)]}, streaming=streaming)["train"]
    task = TextGeneration(path="x")
    assert [task.to_example(row).target for row in list(rows)[:2]] == [literal, literal]
    nested = tmp_path / "b.json"
    nested.write_text(f'[{{"question": "q", "choices": [{literal}, 8.250], "answer": {literal}}}]')
    [row] = load_files({"train": [str(nested)]}, streaming=streaming)["train"]
    assert MultipleChoice(path="x", answer_is="text").to_example(row).candidates == (literal, "8.250")
