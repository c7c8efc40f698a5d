"""CSV and TSV files with other delimiters, quotes and encodings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from pydantic import ValidationError

from peftkit.errors import InputError
from peftkit.tasks import TextClassification
from peftkit.tasks.plain_text import PlainText
from peftkit.tasks.span_qa import SpanQa
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


WITHOUT_EFFECT: list[tuple[str, dict[str, Any], str]] = [
    ("a.jsonl", {"delimiter": ";"}, "CSV or TSV"),
    ("a.jsonl", {"quoting": "none"}, "CSV or TSV"),
    ("a.parquet", {"encoding": "cp1252"}, "text"),
    ("a.csv", {"field": "data"}, "JSON"),
]


@pytest.mark.parametrize(("name", "option", "files"), WITHOUT_EFFECT)
def test_options_without_effect_are_refused(name: str, option: dict[str, Any], files: str, write: Write) -> None:
    file = str(write(name, [{"text": "x", "label": label} for label in "ab"]))
    task = TextClassification(path={"train": file, "dev": file, "test": file}, **option)
    words = f"has no effect, because {file}, {file}, {file} has no {files} files; remove it"
    with pytest.raises(InputError, match=r"has no effect, because .* has no .* files"):
        task.load()
    assert [(p.option, p.text) for p in task.find_data_problems()] == [(next(iter(option)), words)]


FORMS: list[tuple[type[Any], str, list[str]]] = [
    (TokenTagging, "conll", ["delimiter", "quoting", "field", "words_column", "tags_column"]),
    (SpanQa, "squad", ["delimiter", "quoting", "field", "question_column", "context_column", "answers_column"]),
]
VALUES = {"delimiter": ";", "quoting": "none"}


@pytest.mark.parametrize(("task", "form", "option"), [(t, form, o) for t, form, names in FORMS for o in names])
def test_options_of_other_files_are_refused_with_a_form(task: type[Any], form: str, option: str) -> None:
    with pytest.raises(ValidationError, match=f"{option}: has no effect, because file_format .*{form}"):
        task(path="x", file_format=form, **{option: VALUES.get(option, "other")})


@pytest.mark.parametrize(("task", "form"), [(task, form) for task, form, _ in FORMS])
def test_a_form_of_other_data_is_refused(task: type[Any], form: str, tmp_path: Path, write: Write) -> None:
    Dataset.from_dict({"text": ["x"] * 9}).save_to_disk(str(tmp_path / "saved"))
    DatasetDict({"train": Dataset.from_dict({"text": ["x"] * 9})}).save_to_disk(str(tmp_path / "splits"))
    for path in (tmp_path / "saved", tmp_path / "splits", write("a.parquet", [{"text": "x"}])):
        (problem,) = task(path=str(path), file_format=form, dev_fraction=0.1).find_data_problems()
        assert problem.option == "file_format"
        assert problem.text.startswith(f"has no effect, because {str(path)!r}")


def test_another_encoding_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes("text,label\nCafé,a\n".encode("cp1252"))
    path = {"train": str(file), "dev": str(file), "test": str(file)}
    with pytest.raises(
        InputError, match=r"a\.csv: is not ascii \(.*0xe9.*\); set encoding = \"cp1252\" if it is Western"
    ):
        TextClassification(path=path, encoding="ascii").load()


ENCODINGS = {"cp1252": "Café – “x”", "utf-16": "Café", "utf-16-le": "Cafe, ok", "utf-32": "Café"}
CONTENTS = {
    "a.csv": "text,label\n{0},a\n",
    "a.jsonl": '{{"text": "{0}", "label": "a"}}\n',
    "a.json": '[{{"text": "{0}", "label": "a"}}]',
    "a.txt": "{0}\n",
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_error_of_an_encoding_proposes_what_reads_the_file(name: str, encoding: str, tmp_path: Path) -> None:
    file = tmp_path / name
    text = ENCODINGS[encoding].replace(", ", " ")
    file.write_bytes(CONTENTS[name].format(text).encode(encoding))
    path = {"train": str(file), "dev": str(file), "test": str(file)}
    with pytest.raises(InputError) as caught:
        PlainText(path=path).load()
    proposed = re.findall(r'set encoding = "([\w-]+)"', str(caught.value))
    assert proposed == [encoding]
    assert [row["text"] for row in PlainText(path=path, encoding=proposed[0]).load()["train"]] == [text]
