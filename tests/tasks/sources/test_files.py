"""Files of every format load as equal rows, whatever their contents and column names."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.data_files import read_prediction_inputs
from peftkit.tasks import MultipleChoice, TextClassification, TextGeneration
from peftkit.tasks.sources.files import load_files
from peftkit.tasks.sources.split_loading import DataSource, load_splits
from tests.tasks.conftest import Write
from tests.tasks.table_files import COLUMN_NAMES, EXAMPLE_ROWS, FILE_NAMES, examples, load_rows, write_file

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


TEXTS = st.one_of(
    st.sampled_from(["007", "2.50", "true", "NA", "null", "1e5", '"', "'", "9" * 30, " x ", "\ufeffx", "{}"]),
    st.text(CHARACTERS, min_size=1, max_size=6),
)  # fmt: skip


@st.composite
def tables(draw: Any, texts: st.SearchStrategy[str] = TEXTS) -> list[dict[str, str]]:
    columns = draw(st.lists(st.sampled_from(COLUMN_NAMES), min_size=1, max_size=5, unique=True))
    return draw(st.lists(st.fixed_dictionaries(dict.fromkeys(columns, texts)), min_size=1, max_size=5))


@given(tables())
@settings(max_examples=25, deadline=None, database=None)
def test_rows_of_texts_round_trip_in_every_format(rows: list[dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in FILE_NAMES:
            file = Path(folder) / name
            if name == "a.tsv" and any(set("\t\r\n") & set(text) for row in rows for text in row.values()):
                continue
            write_file(file, rows)
            assert load_rows([str(file)]) == rows, name


@pytest.mark.parametrize("streaming", [False, True])
def test_single_precision_floats_and_dictionaries_of_parquet(streaming: bool, tmp_path: Path) -> None:
    columns = {"source": pa.array(["a", "b"]).dictionary_encode(), "target": pa.array([0.1, 2.5], pa.float32())}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = load_files({"train": [str(tmp_path / "a.parquet")]}, streaming=streaming)["train"]
    examples = [TextGeneration(path="x").to_example(row) for row in rows]
    assert [(example.source, example.target) for example in examples] == [("a", "0.1"), ("b", "2.5")]


TYPES: dict[str, tuple[list[Any], pa.DataType, Any]] = {
    "map": ([[("a", 1)]], pa.map_(pa.string(), pa.int64()), [{"key": "a", "value": 1}]),
    "list view": ([["x", "y"]], pa.list_view(pa.string()), ["x", "y"]),
    "fixed binary": ([b"x"], pa.binary(1), b"x"),
    "list of dictionaries": ([["x"]], pa.list_(pa.dictionary(pa.int32(), pa.string())), ["x"]),
    "list of singles": ([[0.1, None]], pa.list_(pa.float32()), [0.1, None]),
    "large list of singles": ([[0.1]], pa.large_list(pa.float32()), [0.1]),
    "fixed list of singles": ([[0.1, 2.5]], pa.list_(pa.float32(), 2), [0.1, 2.5]),
    "table of singles": ([{"a": [0.1]}], pa.struct([("a", pa.list_(pa.float32()))]), {"a": [0.1]}),
    "halves": ([0.1], pa.float16(), 0.1),
    "list of halves": ([[0.1, None, 2.5]], pa.list_(pa.float16()), [0.1, None, 2.5]),
    "table of halves": (
        [{"a": [0.1], "b": 0.2}],
        pa.struct([("a", pa.list_(pa.float16(), 1)), ("b", pa.float32())]),
        {"a": [0.1], "b": 0.2},
    ),
    "map of halves": ([[("a", 0.1)]], pa.map_(pa.string(), pa.float16()), [{"key": "a", "value": 0.1}]),
    "string view": (["x"], pa.string_view(), "x"),
    "large string": (["x"], pa.large_string(), "x"),
}
"""Values, type and expected value of Parquet columns."""


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", TYPES)
def test_parquet_types(name: str, streaming: bool, tmp_path: Path) -> None:
    values, kind, expected = TYPES[name]
    file = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"source": ["a"], "other": pa.array(values, kind)}), file)
    [row] = load_files({"train": [file]}, streaming=streaming)["train"]
    assert row == {"source": "a", "other": expected}
    assert list(read_prediction_inputs(file)) == [row]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", FILE_NAMES)
@pytest.mark.parametrize("kind", EXAMPLE_ROWS)
def test_equal_rows_in_every_format_are_equal_examples(kind: type, name: str, streaming: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"choices_columns": ("1", "2", "3")} if kind is MultipleChoice else {}
    if kind is TextClassification and streaming:
        options["label_names"] = ("9", "10")
    write_file(tmp_path / name, EXAMPLE_ROWS[kind])
    write_file(tmp_path / "plain.jsonl", EXAMPLE_ROWS[kind])
    task, expected = (
        kind(path=dict.fromkeys(("train", "dev", "test"), str(tmp_path / file)), streaming=streaming, **options)
        for file in (name, "plain.jsonl")
    )
    assert examples(task) == examples(expected)
    assert {example.target for example in examples(task)} <= {"9", "10", "1", "007", "01234", "NA"}
    if kind is TextClassification:
        assert task.labels == ("9", "10")


@pytest.mark.parametrize("column", [*COLUMN_NAMES, "extra", "what was it?", "é", "", "x" * 300])
@pytest.mark.parametrize("value", ["text", "7"])
def test_a_further_column_may_have_any_name(column: str, value: str, tmp_path: Path) -> None:
    for kind, rows in EXAMPLE_ROWS.items():
        if column in rows[0] or (kind is MultipleChoice and column == "choices"):
            continue
        options: dict[str, Any] = {"choices_columns": ("1", "2", "3")} if kind is MultipleChoice else {}
        for number, wide in enumerate((rows, [{**row, column: value} for row in rows])):
            write_file(tmp_path / f"{number}.csv", wide)
        plain, other = (
            kind(path=dict.fromkeys(("train", "dev", "test"), str(tmp_path / f"{n}.csv")), **options) for n in (0, 1)
        )
        assert examples(plain) == examples(other)


@pytest.mark.parametrize(
    "name", ["[a]*?.csv", "a[0-9].jsonl", "*.parquet", "train?.tsv", "{a,b}.json", "~.csv", "%20 a.csv"]
)
@pytest.mark.parametrize("streaming", [False, True])
def test_file_names_are_not_patterns(name: str, streaming: bool, write: Write) -> None:
    rows = [{"text": "x", "label": "a"}]
    write(f"decoy{Path(name).suffix}", [{"text": "decoy", "label": "b"}])
    assert load_rows([str(write(name, rows))], streaming=streaming) == rows


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_replaced_file_is_read_again_despite_an_equal_mtime(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    for text in ("old", "new", "odd"):
        write_file(file, [{"text": text, "label": "a"}, {"text": text, "label": "b"}])
        os.utime(file, ns=(10**18, 10**18))
        splits = load_splits(
            DataSource((("train", (str(file),)), ("dev", (str(file),)), ("test", (str(file),))))
        ).splits
        assert splits["train"]["text"][:] == [text, text]
