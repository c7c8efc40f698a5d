"""Files are read exactly, or rejected with file and line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peftkit.data_files import file_format, read_parquet_table, read_prediction_inputs, read_rows
from peftkit.errors import InputError


def rows(tmp_path: Path, name: str, content: bytes | str) -> list[dict[str, Any]]:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(str(file)))


TWO = [{"text": "good", "label": "p"}, {"text": "bad", "label": "n"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\ngood,p\nbad,n\n"),
        ("a.csv", "text,label\ngood,p\nbad,n"),
        ("a.csv", "text,label\r\ngood,p\r\nbad,n\r\n"),
        ("a.csv", "text,label\rgood,p\rbad,n\r"),
        ("a.csv", "\ufefftext,label\ngood,p\nbad,n\n"),
        ("a.csv", '\ufeff"text","label"\n"good","p"\n"bad","n"\n'),
        ("a.csv", "text,label\n\ngood,p\n  \nbad,n\n\n\n"),
        ("a.csv", ",text,label\n0,good,p\n1,bad,n\n"),
        ("A.CSV", "text,label\ngood,p\nbad,n\n"),
        ("a.tsv", "text\tlabel\ngood\tp\nbad\tn\n"),
        ("a.tsv", "text\tlabel\r\ngood\tp\r\nbad\tn"),
        ("a.tsv", "\ufefftext\tlabel\rgood\tp\rbad\tn\r"),
        ("a.jsonl", '{"text":"good","label":"p"}\n{"text":"bad","label":"n"}\n'),
        ("a.jsonl", '\ufeff{"text":"good","label":"p"}\r\n\r\n{"text":"bad","label":"n"}'),
        ("a.jsonl", '{"text":"good","label":"p"}\r{"text":"bad","label":"n"}\r'),
        ("a.jsonl", '[{"text":"good","label":"p"},\n{"text":"bad","label":"n"}]'),
        ("a.ndjson", ' {"text":"good","label":"p"} \n\t{"text":"bad","label":"n"}\n'),
        ("a.json", json.dumps(TWO)),
        ("a.json", "\ufeff" + json.dumps(TWO, indent=2)),
        ("a.json", '{"text":"good","label":"p"}\n{"text":"bad","label":"n"}\n'),
        ("a.json", json.dumps({"version": "1", "data": TWO})),
        ("a.json", json.dumps({"meta": {"a": [1, 2]}, "result": {"rows": TWO, "n": 2}}, indent=1)),
        ("a.json", json.dumps({"text": ["good", "bad"], "label": ["p", "n"]})),
        ("a.json", json.dumps({"text": {"0": "good", "1": "bad"}, "label": {"0": "p", "1": "n"}})),
        ("a.json", json.dumps({"0": TWO[0], "1": TWO[1]})),
        ("a.json", json.dumps({"columns": ["text", "label"], "index": [0, 1], "data": [["good", "p"], ["bad", "n"]]})),
        ("a.json", json.dumps({"schema": {"fields": [{"name": "text"}]}, "data": TWO})),
    ],
)
def test_every_layout_of_the_same_rows_is_read(name: str, content: str, tmp_path: Path) -> None:
    assert rows(tmp_path, name, content) == TWO


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"question": {"stem": "s"}, "choices": ["a", "b"]}', [{"question": {"stem": "s"}, "choices": ["a", "b"]}]),
        ('{"text": "one row"}', [{"text": "one row"}]),
        ('{"a": [1], "b": [1, 2]}', [{"a": [1], "b": [1, 2]}]),
        ('{"data": []}', [{"data": []}]),
        ("[]", []),
    ],
)
def test_an_object_that_is_neither_rows_nor_columns_is_one_row(content: str, expected: Any, tmp_path: Path) -> None:
    assert rows(tmp_path, "a.json", content) == expected


@pytest.mark.parametrize(
    "cell",
    [
        *("007", "2.50", "1.00", "01", "true", "False", "1e5", "9" * 30, "NA", "null", "nan", "-", "+1"),
        *(" x ", '5" pipe', "2024-01-01", "inf", "0x10", "1,5", "٣", "a\u2028b\x85c\x0bd\x1ce", "=1+1", "\\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_cells_are_texts_without_type_inference(cell: str, name: str, tmp_path: Path) -> None:
    separator = "," if name == "a.csv" else "\t"
    written = f'"{cell}"' if separator in cell else cell
    assert rows(tmp_path, name, f"text{separator}label\n{written}{separator}1\n") == [{"text": cell, "label": "1"}]


def test_quotes_in_tsv_are_characters(tmp_path: Path) -> None:
    content = 'text\tlabel\n"a\tx\nb "c" d\ty\n"\tz\n"e"\tw\n'
    assert [row["text"] for row in rows(tmp_path, "a.tsv", content)] == ['"a', 'b "c" d', '"', '"e"']


def test_quoted_cells_of_csv_keep_separators_quotes_and_line_ends(tmp_path: Path) -> None:
    content = 'text,label\n"a, ""b""\r\nc\nd\re",x\n'
    assert rows(tmp_path, "a.csv", content) == [{"text": 'a, "b"\r\nc\nd\re', "label": "x"}]
    assert rows(tmp_path, "a.csv", 'text\n""\n" "\nx\n') == [{"text": None}, {"text": " "}, {"text": "x"}]
    long = "x" * 300_000
    assert rows(tmp_path, "a.csv", f"text,label\n{long},\n") == [{"text": long, "label": None}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", r"a\.csv: is empty; the first line must have the column names"),
        ("a.csv", "\n\n", r"a\.csv: is empty"),
        ("a.csv", "text,label\na,b\nc\n", r"row 2: has 1 cell, but the header has 2 \(line 3\); "),
        ("a.csv", 'text,label\n"a\nb",c\nd,e,f\n', r"row 2: has 3 cells, .* \(line 4\); quote cells that contain ','"),
        ("a.tsv", "text\tlabel\na\tb\tc\n", r"row 1: has 3 cells, .* \(line 2\); cells must not contain tabs"),
        ("a.tsv", "text\tlabel\na\n", r"row 1: has 1 cell, .* \(line 2\); .* must not contain line breaks"),
        ("a.csv", "text,text\na,b\n", r"line 1: has the column 'text' twice"),
        ("a.csv", 'text,label\na,b\n"c,d\ne,f\n', r"a\.csv, line 3: has a quote that is never closed"),
        ("a.csv", 'text,label\n"He said "yes"",b\n', r"line 2: has text after the closing quote of a cell \(line 2\)"),
        ("a.csv", "text,label\na\rb,c\n", r"line 2: has a carriage return inside an unquoted cell"),
        ("a.csv", "text,label\na,b\nc\0,d\n", r"a\.csv, line 3: has a null character"),
        ("a.csv", "text,label\na,b\n".encode("utf-16"), r'line 1: is UTF-16 instead of .*; set encoding = "utf-16"$'),
        ("a.csv", "text,label\na,b\n".encode("utf-16-le"), r'has a null character; set encoding = "utf-16-le"$'),
        ("a.csv", b"\xff\xfe\x00\x00t\x00\x00\x00", r'is UTF-32 instead of UTF-8 .*; set encoding = "utf-32"$'),
        ("a.csv", b"text,label\na,b\ncaf\xe9,d\n", r'line 3: is not UTF-8 \(byte 0xe9\); set encoding = "cp1252"'),
        ("a.tsv", b"text\tlabel\r\na\tb\r\ncaf\xe9\td\r\n", r"a\.tsv, line 3: is not UTF-8 \(byte 0xe9\)"),
        ("a.jsonl", b'{"text":"a"}\n{"text":"caf\xe9"}\n', r"a\.jsonl, line 2: is not UTF-8 \(byte 0xe9\)"),
        ("a.json", b'[\n{"text":"caf\xe9"}]\n', r"a\.json, line 2: is not UTF-8 \(byte 0xe9\)"),
        ("a.json", "", r"a\.json: is empty"),
        ("a.json", "[1, 2]", r"row 1: holds the value 1; a row is an object"),
        ("a.json", '["a"]', r'row 1: holds the string "a"; a row is an object'),
        ("a.json", '[["a", "b"]]', r"row 1: holds a list; a row is an object"),
        ("a.json", '"a"', r'holds the string "a"; write an array of rows'),
        ("a.json", '[{"text": "a"},\n{"text": }]', r"a\.json, line 2: is not valid JSON: Expecting value at column 10"),
        ("a.json", '[{"text": "a"}', r"a\.json, line 1: is not valid JSON: "),
        ("a.json", '{"train": [{"a": 1}], "test": [{"a": 1}]}', r"below several keys, 'train', 'test'; choose one"),
        ("a.jsonl", '{"a": 1}\n{"a": }\n', r"a\.jsonl, line 2: is not valid JSON: Expecting value at column 7"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"a\.jsonl, line 2: holds a list; a row is an object"),
        ("a.jsonl", '{"a": 1}\ntext\n', r"a\.jsonl, line 2: is not valid JSON"),
        ("a.jsonl", '{"a": 1, "a": 2}\n', r"a\.jsonl, line 1: an object has the key 'a' twice; remove one"),
        ("a.jsonl", '{"a": "b"}\n{"b": ' + "9" * 5000 + "}", r"line 2: has a whole number of more than 4,300 digits"),
        ("a.json", '[{"b": {"a": 1, "a": 2}}]', r"a\.json: an object has the key 'a' twice; remove one"),
        ("a.jsonl", '{"a": ' + "[" * 100_000 + "\n", r"a\.jsonl: is nested too deeply"),
        ("a.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n", r"LFS pointer; .*git lfs pull"),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n", r"is a Git LFS pointer"),
        ("a.parquet", "text,label\n", r"a\.parquet: is not a readable Parquet file"),
        ("a.csv", b"PK\x03\x04....", r"a\.csv: is a zip archive; give it the extension"),
        ("a.csv.gz", gzip.compress(b"text,label\n" * 99, mtime=0)[:-9], r"the compressed file is truncated or damaged"),
        ("a.csv.xz", lzma.compress(b"text,label\n" * 99)[:-9], r"the compressed file is truncated or damaged"),
    ],
)  # fmt: skip
def test_invalid_files_are_rejected_with_the_line(name: str, content: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        rows(tmp_path, name, content)
    assert name in str(caught.value)


def test_parquet_files_with_a_column_twice_are_rejected(tmp_path: Path) -> None:
    file = str(tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * 2, names=["label", "label"]), file)
    for read in (lambda: list(read_rows(file)), lambda: read_parquet_table(file), lambda: read_parquet_table(file, 0)):
        with pytest.raises(InputError, match=r"a\.parquet: has the column 'label' twice; give each column a unique"):
            read()


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, pa.Codec("zstd").compress])
@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.bz2", "a.csv.xz", "a.csv.zst", "a.csv"])
def test_compression_is_detected_by_content(compress: Callable[..., Any], name: str, tmp_path: Path) -> None:
    content = b"text,label\ngood,p\nbad,n\n"
    compressed = compress(content)
    assert rows(tmp_path, name, bytes(compressed)) == TWO
    assert rows(tmp_path, name, content) == TWO


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.csv", "csv"), ("b/a.x.JSONL.gz", "jsonl"), ("a.json.gz.xz", "json"), ("a.gz", None), ("a", None)],
)  # fmt: skip
def test_the_format_follows_the_extension(name: str, expected: str | None) -> None:
    assert file_format(Path(name)) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfa bird\r\n\n  a stone \n", ["a bird", "", "  a stone "]),
        (b"a\rb\r", ["a", "b"]),
        (b"a\xe2\x80\xa8b\xc2\x85c\n", ["a\u2028b\x85c"]),
        (b"no end", ["no end"]),
        (b"", []),
    ],
)
def test_other_files_are_read_as_lines_of_text(
    content: bytes, expected: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "lines").write_bytes(content)
    assert list(read_prediction_inputs(str(tmp_path / "lines"))) == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
    assert list(read_prediction_inputs(None)) == expected


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"\xef\xbb\xbfa bird\na stone\n",))
    writer.start()
    assert list(read_prediction_inputs(str(pipe))) == ["a bird", "a stone"]
    writer.join()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\ncaf\xe9\n", r"line 2: is not UTF-8 \(byte 0xe9\)"),
        ("a\n".encode("utf-16"), "line 1: is UTF-16 instead of UTF-8"),
        (b"a\0b\n", "line 1: has a null character"),
    ],
)
def test_lines_in_another_encoding_are_rejected(content: bytes, words: str, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "lines").write_bytes(content)
    with pytest.raises(InputError, match=f"lines, {words}"):
        list(read_prediction_inputs(str(tmp_path / "lines")))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="latin-1"))
    with pytest.raises(InputError, match=f"standard input, {words}"):
        list(read_prediction_inputs(None))
