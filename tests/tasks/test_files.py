"""The same rows in every form of file are the same examples, whatever stands in them and whatever columns are named."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit import Example
from peftkit.data_files import read_inputs
from peftkit.errors import InputError
from peftkit.runner.encoding import examples_of
from peftkit.tasks.columns import make_dataset
from peftkit.tasks.files import load_files
from peftkit.tasks.generic import MultipleChoice, TextClassification, TextGeneration
from peftkit.tasks.rows import INTERNAL
from peftkit.tasks.sources import Source, read, where
from tests.tasks.conftest import Rows, Write

FORMS = ("a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet", "columns.json", "wrapped.json")
NAMES = (
    *(
        "answer",
        "choices",
        "source",
        "target",
        "input_ids",
        "labels",
        "label",
        "text",
        "length",
        "key",
        "gold",
        "index",
    ),
    *(
        "__row__",
        "__index__",
        "__index_level_0__",
        "candidates",
        "source_tokens",
        "group",
        "split",
        "data",
        "[x]*?",
        "a.b",
    ),
)
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.one_of(
    st.sampled_from(["007", "2.50", "true", "NA", "null", "1e5", '"', "'", "9" * 30, " x ", "\ufeffx", "{}"]),
    st.text(CHARACTERS, min_size=1, max_size=6),
)  # fmt: skip


def dump(file: Path, rows: Rows) -> None:
    """Writes rows in the form that the file's name says, as libraries do."""
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), file)
    elif file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".tsv":
        lines = ["\t".join(rows[0]), *("\t".join(row[column] for column in rows[0]) for row in rows)]
        file.write_bytes("".join(f"{line}\n" for line in lines).encode())
    elif file.name == "columns.json":
        file.write_text(json.dumps({column: [row[column] for row in rows] for column in rows[0]}))
    elif file.name == "wrapped.json":
        file.write_text(json.dumps({"version": 2, "rows": rows}, indent=1))
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    else:
        file.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline=""
        )


@st.composite
def tables(draw: Any, texts: st.SearchStrategy[str] = TEXTS) -> list[dict[str, str]]:
    columns = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
    return draw(st.lists(st.fixed_dictionaries(dict.fromkeys(columns, texts)), min_size=1, max_size=5))


def held(names: Sequence[str], *, streaming: bool = False) -> list[dict[str, Any]]:
    return [dict(row) for row in load_files({"train": names}, streaming=streaming)["train"]]


@given(tables())
@settings(max_examples=25, deadline=None, database=None)
def test_rows_of_texts_are_read_back_from_every_form(rows: list[dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMS:
            file = Path(folder) / name
            if name == "a.tsv" and any(set("\t\r\n") & set(text) for row in rows for text in row.values()):
                continue
            dump(file, rows)
            assert held([str(file)]) == rows, name


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), JSON_VALUES, min_size=1), min_size=1, max_size=6), st.booleans()
)
@settings(max_examples=60, deadline=None, database=None)
def test_any_rows_of_json_are_read_back(rows: list[dict[str, Any]], lines: bool) -> None:
    columns = dict.fromkeys(column for row in rows for column in row)
    expected = [{column: row.get(column) for column in columns} for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ("a.jsonl" if lines else "a.json")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows))
        found = held([str(file)])
    assert [spelled(row) for row in found] == [spelled(row) for row in expected]


def spelled(value: Any) -> str:
    """The value with its types: 1 is neither 1.0 nor true."""
    return json.dumps(value)


def test_columns_and_types_that_come_late_are_kept(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftkit.tasks.columns.CHUNK", 3)
    rows: list[dict[str, Any]] = [{"text": f"t{i}", "label": "ab"[i % 2], "n": i} for i in range(10)]
    rows[7] |= {"extra": {"deep": [1, "x"]}, "n": 2.5}
    rows[9] |= {"extra": "text", "n": "last"}
    file = str(write("a.jsonl", rows))
    found = held([file])
    assert [row["n"] for row in found] == [0, 1, 2, 3, 4, 5, 6, 2.5, 8, "last"]
    assert [type(row["n"]) for row in found[:2]] == [int, int]
    assert [row["extra"] for row in found] == [None] * 7 + [{"deep": [1, "x"]}, None, "text"]
    assert [row["n"] for row in held([file], streaming=True)] == [row["n"] for row in rows]
    task = TextClassification(path={"train": file, "dev": file, "test": file})
    assert [example.target for example in examples(task)] == [row["label"] for row in rows]


@pytest.mark.parametrize("literal", ["2.50", "1e3", "1.0", "0.1", "1E-7", "3", "12345678901234567890.125", "-0.0"])
@pytest.mark.parametrize("other", ["0.5", "7", "null", '"x"'])
@pytest.mark.parametrize("streaming", [False, True])
def test_numbers_of_json_that_are_read_as_texts_are_as_written(
    literal: str, other: str, streaming: bool, tmp_path: Path
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"source": "a", "target": {literal}, "unread": {other}}}\n' * 2 + f'{{"target": {other}}}\n')
    rows = load_files({"train": [str(file)]}, streaming=streaming)["train"]
    task = TextGeneration(path="x")
    assert [task.encode(row).target for row in list(rows)[:2]] == [literal, literal]
    nested = tmp_path / "b.json"
    nested.write_text(f'[{{"question": "q", "choices": [{literal}, 8.250], "answer": {literal}}}]')
    [row] = load_files({"train": [str(nested)]}, streaming=streaming)["train"]
    assert MultipleChoice(path="x", answer_is="text").encode(row).candidates == (literal, "8.250")


@pytest.mark.parametrize("streaming", [False, True])
def test_single_precision_and_dictionaries_of_parquet_are_as_written(streaming: bool, tmp_path: Path) -> None:
    columns = {"source": pa.array(["a", "b"]).dictionary_encode(), "target": pa.array([0.1, 2.5], pa.float32())}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = load_files({"train": [str(tmp_path / "a.parquet")]}, streaming=streaming)["train"]
    examples = [TextGeneration(path="x").encode(row) for row in rows]
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
    "string view": (["x"], pa.string_view(), "x"),
    "large string": (["x"], pa.large_string(), "x"),
}
"""What columns of Parquet hold, and what is read."""


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", TYPES)
def test_every_type_of_parquet_is_read_by_its_values(name: str, streaming: bool, tmp_path: Path) -> None:
    values, kind, expected = TYPES[name]
    file = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"source": ["a"], "other": pa.array(values, kind)}), file)
    [row] = load_files({"train": [file]}, streaming=streaming)["train"]
    assert row == {"source": "a", "other": expected}
    assert list(read_inputs(file)) == [row]


def test_single_precision_of_saved_data_sets_is_as_written(tmp_path: Path) -> None:
    features = Features({"source": Value("string"), "target": Value("float32"), "kind": ClassLabel(names=["x", "y"])})
    rows = {"source": ["a", "b"], "target": [0.1, 2.5], "kind": [1, 0]}
    saved = Dataset.from_dict(rows, features=features).select([1, 0])
    saved.save_to_disk(tmp_path / "one")
    DatasetDict(dict.fromkeys(("train", "dev", "test"), saved)).save_to_disk(tmp_path / "several")
    one = str(tmp_path / "one")
    for path in (str(tmp_path / "several"), {"train": one, "dev": one, "test": one}):
        splits = TextGeneration(path=path).load()
        assert list(splits["train"]) == [
            {"source": s, "target": t, "kind": k} for s, t, k in (("b", 2.5, 0), ("a", 0.1, 1))
        ]
        assert splits["train"].features["kind"].names == ["x", "y"]


@pytest.mark.parametrize("answered", [False, True])
def test_a_saved_data_set_is_predicted_as_it_is_trained(answered: bool, tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "score": 0.5, **({"label": "ab"[i % 2]} if answered else {})} for i in range(4)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "one")
    assert list(read_inputs(str(tmp_path / "one"))) == rows
    DatasetDict(test=Dataset.from_list(rows)).save_to_disk(tmp_path / "several")
    with pytest.raises(InputError, match="several: holds the splits test; name the folder of one of them"):
        list(read_inputs(str(tmp_path / "several")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty' is a folder, and not one that Dataset\.save_to_disk wrote"):
        list(read_inputs(str(tmp_path / "empty")))


@pytest.mark.parametrize(
    ("task", "column"),
    [
        (TextGeneration(path="x", target_column="kind"), "kind"),
        (TextGeneration(path="x", source_column="kind"), "kind"),
        (TextClassification(path="x", prompt="{kind}: {text}"), "kind"),
        (TextClassification(path="x", prompt="{of.kind}: {text}"), "of.kind"),
        (MultipleChoice(path="x", choices_columns=("source", "kind"), answer_column="text"), "kind"),
    ],
)
def test_numbers_of_names_are_not_read_as_texts(task: Any, column: str, tmp_path: Path) -> None:
    kind = ClassLabel(names=["x", "y"])
    features = {**dict.fromkeys(("text", "source", "target", "question"), Value("string")), "kind": kind}
    features = Features({**features, "of": {"kind": kind}, "label": kind})
    row = {**dict.fromkeys(("text", "source", "target", "question"), "a"), "kind": 1, "of": {"kind": 1}, "label": 0}
    Dataset.from_list([row, {**row, "label": 1}], features=features).to_parquet(tmp_path / "a.parquet")
    file = str(tmp_path / "a.parquet")
    made = task.model_copy(update={"path": {"train": file, "dev": file, "test": file}})
    with pytest.raises(InputError, match=rf"a\.parquet: {column}: is read as a text and holds the numbers of names"):
        made.load()


def test_a_data_set_is_made_of_no_rows_and_of_half_characters() -> None:
    assert len(make_dataset([])) == 0
    assert make_dataset([{"a": "\ud800"}, {"a": None}, {"a": "x"}])["a"][:] == ["\ud800", None, "x"]
    assert make_dataset([{"a": 10**30}, {"a": 1}])["a"][:] == [10**30, 1]


def examples(task: Any, split: str = "train") -> list[Example]:
    rows = task.load()[split]
    return examples_of(task, split, rows, range(len(rows)) if isinstance(rows, Dataset) else range(10**6))


ROWS: Mapping[type, list[dict[str, str]]] = {
    TextClassification: [{"text": t, "label": label} for t, label in (("007", "10"), ("true", "9"), ('"a"', "10"))],
    MultipleChoice: [
        {"question": "q1", "1": "0.50", "2": "1", "3": "true", "answer": "B"},
        {"question": "2.0", "1": "x", "2": "007", "3": "NA", "answer": "007"},
    ],
    TextGeneration: [{"source": "zip", "target": "01234"}, {"source": "1.00", "target": "NA"}],
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("kind", ROWS)
def test_the_same_rows_in_every_form_are_the_same_examples(
    kind: type, name: str, streaming: bool, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"choices_columns": ("1", "2", "3")} if kind is MultipleChoice else {}
    if kind is TextClassification and streaming:
        options["label_names"] = ("9", "10")
    dump(tmp_path / name, ROWS[kind])
    dump(tmp_path / "plain.jsonl", ROWS[kind])
    found, expected = (
        kind(path=dict.fromkeys(("train", "dev", "test"), str(tmp_path / file)), streaming=streaming, **options)
        for file in (name, "plain.jsonl")
    )
    assert examples(found) == examples(expected)
    assert {example.target for example in examples(found)} <= {"9", "10", "1", "007", "01234", "NA"}
    if kind is TextClassification:
        assert found.labels == ("9", "10")


@pytest.mark.parametrize("column", [*NAMES, "extra", "what was it?", "é", "", "x" * 300])
@pytest.mark.parametrize("value", ["text", "7"])
def test_a_further_column_may_have_any_name(column: str, value: str, tmp_path: Path) -> None:
    for kind, rows in ROWS.items():
        if column in rows[0] or (kind is MultipleChoice and column == "choices"):
            continue
        options: dict[str, Any] = {"choices_columns": ("1", "2", "3")} if kind is MultipleChoice else {}
        for number, wide in enumerate((rows, [{**row, column: value} for row in rows])):
            dump(tmp_path / f"{number}.csv", wide)
        plain, other = (
            kind(path=dict.fromkeys(("train", "dev", "test"), str(tmp_path / f"{n}.csv")), **options) for n in (0, 1)
        )
        assert examples(plain) == examples(other)


def test_internal_columns_are_in_no_message(write: Write) -> None:
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(20)]
    file = str(write("a.jsonl", rows))
    cut = {"path": file, "dev_fraction": 0.2, "test_fraction": 0.2, "max_rows": 5}
    for options in ({"text_column": "txt"}, {"label_column": "row"}, {"label_column": "x.y"}, {"prompt": "{row}"}):
        with pytest.raises(InputError) as caught:
            examples(TextClassification(**cut, **options))
        assert INTERNAL not in str(caught.value)
        assert "\\x1f" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["[a]*?.csv", "a[0-9].jsonl", "*.parquet", "train?.tsv", "{a,b}.json", "~.csv", "%20 a.csv"]
)
@pytest.mark.parametrize("streaming", [False, True])
def test_names_are_names(name: str, streaming: bool, write: Write) -> None:
    rows = [{"text": "x", "label": "a"}]
    write(f"decoy{Path(name).suffix}", [{"text": "decoy", "label": "b"}])
    assert held([str(write(name, rows))], streaming=streaming) == rows


def test_a_folder_may_have_any_name(write: Write, tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        write(f"[x]*?/{split}.csv", [{"text": split, "label": "01"}])
    assert read(Source(str(tmp_path / "[x]*?"))).splits["dev"].to_list() == [{"text": "dev", "label": "01"}]


@pytest.mark.parametrize("name", FORMS)
def test_a_replaced_file_is_read_whatever_its_time(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    for text in ("old", "new", "odd"):
        dump(file, [{"text": text, "label": "a"}, {"text": text, "label": "b"}])
        os.utime(file, ns=(10**18, 10**18))
        splits = read(Source((("train", (str(file),)), ("dev", (str(file),)), ("test", (str(file),))))).splits
        assert splits["train"]["text"][:] == [text, text]


def test_a_readme_that_names_the_files_reads_them_as_they_are_written(write: Write, tmp_path: Path) -> None:
    header = "---\nconfigs:\n- config_name: default\n  data_files:\n"
    splits = "".join(f"  - split: {s}\n    path: rows/{s}_x.csv\n" for s in ("train", "validation", "test"))
    for split in ("train", "validation", "test"):
        write(f"data/rows/{split}_x.csv", [{"text": "007", "label": "01"}, {"text": "true", "label": "02"}])
    (tmp_path / "data/README.md").write_text(f"{header}{splits}---\n")
    rows = read(Source(str(tmp_path / "data"))).splits["dev"].to_list()
    assert rows == [{"text": "007", "label": "01"}, {"text": "true", "label": "02"}]
    declared = "dataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype: int64\n"
    (tmp_path / "data/README.md").write_text(f"{header}{splits}{declared}---\n")
    assert read(Source(str(tmp_path / "data"))).splits["dev"]["label"][:] == [1, 2]


def test_a_saved_data_set_is_cut_as_one_file_is(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": [f"t{i}" for i in range(20)], "label": ["a", "b"] * 10})
    rows.save_to_disk(tmp_path / "one")
    task = TextClassification(path=str(tmp_path / "one"), dev_fraction=0.2, test_fraction=0.2)
    splits = task.load()
    assert {split: len(held) for split, held in splits.items()} == {"train": 12, "dev": 4, "test": 4}
    number = int(splits["dev"][1]["text"][1:])
    assert where(task._source(), "dev", 1) == f"{tmp_path}/one, row {number + 1}"
    rows.save_to_disk(tmp_path / "several/train")
    rows.select(range(4)).save_to_disk(tmp_path / "several/validation")
    source = Source(str(tmp_path / "several"), test_fraction=0.5)
    assert {split: len(held) for split, held in read(source).splits.items()} == {"train": 10, "test": 10, "dev": 4}
    folders = {"train": str(tmp_path / "one"), "dev": str(tmp_path / "one"), "test": str(tmp_path / "one")}
    assert len(TextClassification(path=folders).load()["dev"]) == 20
    streamed = TextClassification(path=folders, streaming=True, label_names=("a", "b"))
    assert len(examples(streamed)) == 20


def test_files_that_lie_beside_those_of_the_splits_need_not_be_readable(write: Write, tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        write(f"data/{split}.csv", [{"text": split, "label": "a"}])
    (tmp_path / "data/._train.csv").write_bytes(b"\0\0")
    (tmp_path / "data/notes.csv").write_text("a,b\n1\n")
    (tmp_path / "data/metadata.json").write_text("")
    assert read(Source(str(tmp_path / "data"))).splits["train"].to_list() == [{"text": "train", "label": "a"}]


def test_a_saved_format_neither_hides_columns_nor_makes_tensors(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": [f"t{i}" for i in range(10)], "label": [0, 1] * 5})
    rows.with_format("torch", columns=["label"]).save_to_disk(tmp_path / "one")
    shares: dict[str, Any] = {"dev_fraction": 0.2, "test_fraction": 0.2}
    expected = {"0", "1"}
    assert {
        example.target for example in examples(TextClassification(path=str(tmp_path / "one"), **shares))
    } == expected
    splits = dict.fromkeys(("train", "dev", "test"), rows.with_format("numpy", columns=["label"]))
    DatasetDict(splits).save_to_disk(tmp_path / "all")
    assert {example.target for example in examples(TextClassification(path=str(tmp_path / "all")))} == expected


def label_task(write: Write, labels: Sequence[Any], name: str = "a.jsonl", **options: Any) -> TextClassification:
    file = str(write(name, [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]))
    return TextClassification(path={"train": file, "dev": file, "test": file}, **options)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a"], ("a", "b")),
        (["10", "9", "1"], ("1", "9", "10")),
        ([10, 9, 1], ("1", "9", "10")),
        ([-1, 1, 0], ("-1", "0", "1")),
        (["-1", "1", "0.5"], ("-1", "0.5", "1")),
        ([1, 2.5, 1.0], ("1", "2.5")),
        ([True, False], ("false", "true")),
        (["true", "false"], ("false", "true")),
        (["01", "02"], ("01", "02")),
        (["class 10", "class 9"], ("class 9", "class 10")),
        (["nan", "inf", "NA"], ("NA", "inf", "nan")),
    ],
)
def test_labels_are_found_in_natural_order(labels: Sequence[Any], names: Sequence[str], write: Write) -> None:
    task = label_task(write, labels)
    assert task.labels == names
    assert {example.target for example in examples(task)} == set(names)


@pytest.mark.parametrize(
    ("labels", "names", "targets"),
    [
        (["true", "false"], ("false", "true"), ["true", "false"]),
        ([True, False], ("false", "true"), ["true", "false"]),
        ([True, False], ("False", "True"), ["True", "False"]),
        ([1, 0], ("no", "yes"), ["yes", "no"]),
        (["1", "0"], ("no", "yes"), ["yes", "no"]),
        (["1", "0"], ("0", "1"), ["1", "0"]),
        (["yes", "no"], ("no", "yes"), ["yes", "no"]),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_labels_are_matched_by_name_or_by_number(
    labels: Sequence[Any], names: Any, targets: Any, streaming: bool, write: Write
) -> None:
    task = label_task(write, labels, label_names=names, streaming=streaming)
    assert [example.target for example in examples(task)] == targets


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        ([["a"], ["b"]], {}, r"a\.jsonl, row 1: label: holds the list \['a'\]; peftkit has one label a row"),
        (["a", ["b"]], {}, r"a\.jsonl, row 2: label: holds the list \['b'\]; peftkit has one label a row"),
        (["a", ["b"]], {"label_names": ("a", "b")}, r"row 2: label: holds the list \['b'\]; peftkit has one label"),
        (["a", {"b": 1}], {}, r"row 2: label: holds the table \{'b': 1\}; peftkit has one label a row"),
        (["a", "b", 1], {}, r"row 3: label: the label 1 is a number, and that of .*, row 1 is a text; write"),
        ([1, "b"], {}, r"row 2: label: the label 'b' is a text, and that of .*row 1 is a number"),
        ([True, 1], {}, r"row 2: label: the label 1 is a number, and that of .*row 1 is a truth value"),
        (["a", None], {}, r"row 2: label: is empty"),
        (["a", " "], {}, r"row 2: label: is empty"),
        (["a", "b", "a "], {}, r"label: the labels 'a' and 'a ' differ in blanks only"),
        (["a  b", "a b"], {}, r"label: the labels 'a  b' and 'a b' differ in blanks only"),
        (["\u00e9", "e\u0301"], {}, r"label: the labels .* differ in how their characters are composed only"),
        (["a", "a"], {}, r"label: there is one label, 'a'; a classification needs two at the least"),
        ([1, 1.0], {}, r"label: there is one label, '1'; a classification needs two at the least"),
        ([None, None], {}, r"row 1: label: is empty"),
        ([0, 1, 2], {"label_names": ("a", "b")}, r"row 3: label: the label 2 is no number of 2 labels, from 0"),
        (["1", "2", "0"], {"label_names": ("1", "2", "3")}, r"row 3: label: unknown label '0'.*; labels: 1, 2, 3"),
        (["a", "b"], {"verbalisers": {"c": "x"}}, r"verbalisers: there is no label 'c'; labels: a, b"),
        (["good", "bad"], {"verbalisers": {"goood": "x"}}, r"there is no label 'goood' .did you mean 'good'"),
        (["a", "b"], {"verbalisers": {"a": "x", "b": "x"}}, r"two labels have one text, 'x': 'a' and 'b'"),
        (["a", "b"], {"verbalisers": {"a": "b"}}, r"two labels have one text, 'b'"),
        (["a", "b"], {"verbalisers": {"a": " "}}, r"verbalisers: the text of the label 'a' is empty"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("nested", [False, True])
def test_labels_that_cannot_be_meant_are_refused(
    labels: Sequence[Any], options: dict[str, Any], words: str, nested: bool, write: Write
) -> None:
    if nested:
        rows = [{"text": f"t{i}", "review": {"label": label}} for i, label in enumerate(labels)]
        file = str(write("a.jsonl", rows))
        path = {"train": file, "dev": file, "test": file}
        task, words = (
            TextClassification(path=path, label_column="review.label", **options),
            words.replace(": label: ", ": review.label: "),
        )
    else:
        task = label_task(write, labels, **options)
    with pytest.raises(InputError, match=words) as caught:
        examples(task)
    assert caught.value.exit_code == 2


def test_labels_within_tables_need_no_names(write: Write, tmp_path: Path) -> None:
    rows = [{"review": {"body": f"t{i}", "stars": "ba"[i % 2]}} for i in range(4)]
    options = {"text_column": "review.body", "label_column": "review.stars"}
    for name in ("a.jsonl", "a.parquet"):
        file = str(write(name, rows))
        task = TextClassification(path={"train": file, "dev": file, "test": file}, **options)
        assert task.labels == ("a", "b")
        assert [example.target for example in examples(task)] == ["b", "a", "b", "a"]
    features = Features({"review": {"body": Value("string"), "stars": ClassLabel(names=["no", "yes"])}})
    named = Dataset.from_list([{"review": {"body": "x", "stars": i % 2}} for i in range(4)], features=features)
    DatasetDict(dict.fromkeys(("train", "dev", "test"), named)).save_to_disk(tmp_path / "saved")
    named.to_parquet(tmp_path / "named.parquet")
    file = str(tmp_path / "named.parquet")
    for path in (str(tmp_path / "saved"), {"train": file, "dev": file, "test": file}):
        task = TextClassification(path=path, **options)
        assert task.labels == ("no", "yes")
        assert [example.target for example in examples(task)] == ["no", "yes", "no", "yes"]


def test_labels_are_numbered_alike_by_all_splits_files_and_the_recipe(tmp_path: Path) -> None:
    files = []
    for number, names in enumerate((["no", "yes"], ["yes", "no"])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        files.append(str(tmp_path / f"{number}.parquet"))
        Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features).to_parquet(files[-1])
    one, other = files
    with pytest.raises(InputError, match=r"label: the split 'test' has the label 'yes' as number 0, and the training "):
        TextClassification(path={"train": one, "dev": one, "test": other}).load()
    with pytest.raises(
        InputError, match=r"label: the split 'train' has the label 'no' as number 0, and label_names as "
    ):
        TextClassification(path={"train": one, "dev": one, "test": one}, label_names=("yes", "no")).load()
    with pytest.raises(InputError, match=r"1\.parquet: the column 'label' has other label names \(yes, no\) than in "):
        TextClassification(path={"train": files, "dev": one, "test": one}).load()
    streamed = {"streaming": True, "label_names": ("yes", "no")}
    (tmp_path / "a.csv").write_text("text,label\na,yes\n")
    rows = str(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"the split 'train' has the label 'no' as number 0, and label_names as "):
        TextClassification(path={"train": one, "dev": rows, "test": rows}, **streamed).load()
    with pytest.raises(InputError, match=r"1\.parquet: the column 'label' has other label names"):
        TextClassification(path={"train": files, "dev": rows, "test": rows}, **streamed).load()
    renamed = TextClassification(path={"train": one, "dev": one, "test": one}, label_names=("bad", "good"))
    assert [example.target for example in examples(renamed)] == ["bad", "good"]


@pytest.mark.parametrize(
    ("row", "options", "index"),
    [
        ({"answer": 4, "choices": ["4", "3", "5"]}, {"answer_is": "text"}, 0),
        ({"answer": "3", "choices": [4, 3, 5]}, {"answer_is": "text"}, 1),
        ({"answer": 2.5, "choices": [2.5, 1.5]}, {"answer_is": "text"}, 0),
        ({"answer": True, "choices": ["true", "false"]}, {"answer_is": "text"}, 0),
        ({"answer": True, "choices": ["True", "False"]}, {"answer_is": "text"}, 0),
        ({"answer": "4", "choices": ["44", "4", "40"]}, {}, 1),
        ({"answer": "1", "choices": ["1", "2", "3"]}, {"answer_is": "text"}, 0),
        ({"answer": "1", "choices": ["1", "2", "3"]}, {"answer_is": "index"}, 1),
        ({"answer": "1", "choices": ["1", "2", "3"]}, {}, r"may be a number or text; say which with answer_is"),
        ({"answer": 4, "choices": ["4", "3"]}, {}, r"the answer 4 is not among the choices .* answer_is = 'index'"),
        ({"answer": "x", "choices": ["x", ""]}, {}, r"choices: holds an empty choice"),
        ({"answer": "", "choices": ["x", "y"]}, {}, r"answer: the answer '' is not among"),
        ({"answer": "x", "choices": "xy"}, {}, r"choices: must be a list of texts, not 'xy'"),
    ],
)  # fmt: skip
def test_answers_are_found_by_what_is_written(row: Any, options: Any, index: int | str, write: Write) -> None:
    file = str(write("a.jsonl", [{"question": "q", **row}] * 2))
    task = MultipleChoice(path={"train": file, "dev": file, "test": file}, **options)
    if isinstance(index, str):
        with pytest.raises(InputError, match=rf"a\.jsonl, row 1: .*{index}"):
            examples(task)
    else:
        assert examples(task)[0].target == str(row["choices"][index])


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize(
    ("task", "column"),
    [
        *((TextClassification(path="x", prompt="{text} {shop}"), column) for column in ("text", "shop", "label")),
        *((TextClassification(path="x", text_pair_column="pair"), column) for column in ("text", "pair", "label")),
        *((TextGeneration(path="x"), column) for column in ("source", "target")),
        *(
            (MultipleChoice(path="x", choices_columns=("1", "2")), column)
            for column in ("question", "1", "2", "answer")
        ),
    ],
)
def test_an_empty_cell_that_is_read_is_refused_with_its_place(
    task: Any, column: str, name: str, tmp_path: Path
) -> None:
    row = {"text": "t", "pair": "p", "shop": "s", "label": "a", "source": "s", "target": "t", "unread": ""}
    row |= {"question": "q", "1": "a", "2": "b", "answer": "a"}
    dump(tmp_path / name, [row, {**row, "label": "b"}, {**row, column: ""}])
    file = str(tmp_path / name)
    made = task.model_copy(update={"path": {"train": file, "dev": file, "test": file}})
    with pytest.raises(InputError, match=rf"{name}, row 3: {column}: is empty"):
        examples(made)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"data": 1}], r"a\.json' has 1 row, with the columns data: too few to take shares of it for dev and test"),
        ([{"a": 1, "b": 2}] * 2, r"has 2 rows, with the columns a, b: too few"),
    ],
)
def test_too_few_rows_to_cut_are_named_with_their_columns(rows: Any, words: str, write: Write) -> None:
    with pytest.raises(InputError, match=words):
        read(Source(str(write("a.json", rows)), dev_fraction=0.2, test_fraction=0.2))
