"""CSV and TSV files with other delimiters, quotes and encodings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from peftkit.errors import InputError
from peftkit.tasks.generic import TextClassification
from peftkit.tasks.token_tagging import TokenTagging
from tests.tasks.conftest import Write


def texts(file: Path, content: bytes, **options: Any) -> list[str]:
    """The texts that a task reads of a file."""
    file.write_bytes(content)
    path = {"train": str(file), "dev": str(file), "test": str(file)}
    task = TextClassification(path=path, label_names=("a", "b"), **options)
    assert task.find_data_problems() == []
    rows = task.load()["train"]
    cells = [row["text"] for row in rows]
    assert task.describe_row("train", len(cells) - 1) == f"{file}, row {len(cells)}"
    return cells


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("a.csv", 'text;label\n"x, ""y""; z";a\n', {"delimiter": ";"}, 'x, "y"; z'),
        ("a.csv", "text|label\nx, y|a\n", {"delimiter": "|"}, "x, y"),
        ("a.csv", "text\tlabel\nx, y\ta\n", {"delimiter": "\t"}, "x, y"),
        ("a.csv", 'text,label\n"x" y,a\n', {"quoting": "none"}, '"x" y'),
        ("a.tsv", 'text\tlabel\n"x\ty"\ta\n', {"quoting": "minimal"}, "x\ty"),
        ("a.csv", "text,label\nCafé – “x”,a\n", {"encoding": "cp1252"}, "Café – “x”"),
        ("a.csv", "text,label\r\nCafé,a\r\n", {"encoding": "utf-16"}, "Café"),
        ("a.csv", "text,label\rCafé,a\r", {"encoding": "utf-16-le"}, "Café"),
        ("a.csv", "text,label\nCafé,a\n", {"encoding": "UTF8"}, "Café"),
    ],
)
def test_options_say_how_files_are_written(
    name: str, content: str, options: dict[str, Any], expected: str, streaming: bool, tmp_path: Path
) -> None:
    encoded = content.encode(options.get("encoding", "utf-8"))
    assert texts(tmp_path / name, encoded, streaming=streaming, **options) == [expected]


def test_another_option_reads_the_rows_again(tmp_path: Path) -> None:
    content = b'text,label\n"x",a\n'
    assert texts(tmp_path / "a.csv", content) == ["x"]
    assert texts(tmp_path / "a.csv", content, quoting="none") == ['"x"']


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delimiter": ";;"}, "must be one character that is no quote and no line break, not ';;'"),
        ({"delimiter": '"'}, "must be one character"),
        ({"encoding": "latin-99"}, "unknown encoding 'latin-99'; encodings are named as in Python, such as 'cp1252'"),
        ({"encoding": "base64"}, "unknown encoding 'base64'"),
        ({"quoting": "all"}, "quoting"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TextClassification(path="x", **options)


@pytest.mark.parametrize("option", [{"delimiter": ";"}, {"quoting": "none"}, {"encoding": "cp1252"}])
def test_options_without_effect_are_refused(option: dict[str, Any], write: Write) -> None:
    file = str(write("a.jsonl", [{"text": "x", "label": label} for label in "ab"]))
    task = TextClassification(path={"train": file, "dev": file, "test": file}, **option)
    words = f"has no effect, because {file}, {file}, {file} has no CSV or TSV files; remove it"
    with pytest.raises(InputError, match=r"has no effect, because .* has no CSV or TSV files"):
        task.load()
    assert [(p.option, p.text) for p in task.find_data_problems()] == [(next(iter(option)), words)]
    with pytest.raises(ValidationError, match="has no effect, because file_format is 'conll'"):
        TokenTagging(path=file, file_format="conll", **option)


def test_another_encoding_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes("text,label\nCafé,a\n".encode("cp1252"))
    path = {"train": str(file), "dev": str(file), "test": str(file)}
    with pytest.raises(InputError, match=r"a\.csv: is not ascii \(.*0xe9.*\); set encoding to that of the file"):
        TextClassification(path=path, encoding="ascii").load()
