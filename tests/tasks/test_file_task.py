"""Paths of tasks: archives, patterns, rows below a key, text files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from peftkit.data_files import read_prediction_inputs
from peftkit.errors import InputError
from peftkit.tasks import TextClassification
from peftkit.tasks.plain_text import PlainText
from peftkit.tasks.span_qa import SpanQa
from peftkit.tasks.token_tagging import TokenTagging
from tests.tasks.conftest import Write

ROWS = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(20)]
HELD_OUT = {"dev_fraction": 0.2, "test_fraction": 0.2}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def zipped(archive: str, *files: Path) -> str:
    with zipfile.ZipFile(archive, "w") as opened:
        for file in files:
            opened.write(file, file.name)
    return archive


def texts(task: Any) -> list[str]:
    """The texts of all splits; the task has no problems."""
    assert [problem for problem in task.find_data_problems() if problem.is_error] == []
    return sorted(row["text"] for rows in task.load().values() for row in rows)


ALL = sorted(row["text"] for row in ROWS)


def test_an_archive_with_one_file_is_that_file(write: Write) -> None:
    zipped("rows.zip", write("a.csv", ROWS))
    for path in ("rows.zip", "rows.zip::a.csv", "zip://a.csv::rows.zip", {"train": "rows.zip"}):
        task = TextClassification(path=path, **HELD_OUT)
        assert texts(task) == ALL
        assert task.describe_row("train", 0).startswith("rows.zip::a.csv, row ")
        assert [str(file) for file in task.data_files()] == ["rows.zip"]


def test_an_archive_with_files_by_split_is_a_folder(write: Write) -> None:
    parts = [
        write(f"{split}.csv", rows)
        for split, rows in zip(("train", "dev", "test"), (ROWS[:10], ROWS[10:15], ROWS[15:]), strict=True)
    ]
    splits = TextClassification(path=zipped("rows.zip", *parts)).load()
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 10, "dev": 5, "test": 5}


def test_a_changed_archive_is_read_again(write: Write) -> None:
    task = TextClassification(path=zipped("rows.zip", write("a.csv", ROWS)), **HELD_OUT)
    assert texts(task) == ALL
    zipped("rows.zip", write("a.csv", [{"text": f"new {row['text']}", "label": row["label"]} for row in ROWS]))
    assert texts(task) == sorted(f"new {text}" for text in ALL)


def test_several_files_in_an_archive_need_a_name(write: Write) -> None:
    zipped("rows.zip", write("a.csv", ROWS), write("b.csv", ROWS))
    for path in ("rows.zip", {"train": "rows.zip"}):
        (problem,) = TextClassification(path=path, **HELD_OUT).find_data_problems()
        assert "has 2 data files, a.csv, b.csv; choose one, such as 'rows.zip::a.csv'" in problem.text
    assert texts(TextClassification(path="rows.zip::b.csv", **HELD_OUT)) == ALL


@pytest.mark.parametrize(
    "path", [{"glob": "parts/*.csv"}, {"train": {"glob": "parts/**/*.csv"}}, {"glob": "p*/[ab].csv"}]
)
def test_a_pattern_stands_for_the_files_that_match(path: Any, write: Write) -> None:
    write("parts/a.csv", ROWS[:9])
    write("parts/b.csv", ROWS[9:])
    task = TextClassification(path=path, **HELD_OUT)
    assert texts(task) == ALL
    assert [str(file) for file in task.data_files()] == ["parts/a.csv", "parts/b.csv"]


def test_file_names_are_patterns_only_where_asked_for(write: Write) -> None:
    write("a.csv", ROWS)
    write("[a].csv", ROWS[:5])
    assert texts(TextClassification(path="[a].csv", **HELD_OUT)) == ALL[:1] + sorted(r["text"] for r in ROWS[1:5])
    (problem,) = TextClassification(path={"train": "*.csv"}, **HELD_OUT).find_data_problems()
    assert problem.text == """there is no file '*.csv'; patterns are written as path = { glob = "*.csv" }"""
    task = TextClassification(path={"glob": "*.tsv"}, **HELD_OUT)
    assert [(p.option, p.text) for p in task.find_data_problems()] == [("path", "no file matches '*.tsv'")]
    with pytest.raises(InputError, match=r"no file matches '\*\.tsv'"):
        task.load()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ({"glob": "*.csv", "train": "a.csv"}, "a pattern is a table with one key"),
        ({"train": {"pattern": "*.csv"}}, "a pattern is a table with one key"),
        ({"glob": ""}, "a pattern is a table with one key"),
        ({"trian": "a.csv"}, "unknown split 'trian'; allowed: train, dev, test, or glob alone"),
    ],
)
def test_invalid_paths_are_refused(path: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TextClassification(path=path)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"data": ROWS, "other": ROWS[:1]}, "data"),
        ({"a": {"b": ROWS}, "c": ROWS[:1]}, "a.b"),
        ({"a.b": ROWS, "c": ROWS[:1]}, "a.b"),
        ({"a": {"text": [r["text"] for r in ROWS], "label": [r["label"] for r in ROWS]}, "c": ROWS[:1]}, "a"),
    ],
)
def test_rows_below_a_key(content: Any, field: str) -> None:
    Path("rows.json").write_text(json.dumps(content))
    assert texts(TextClassification(path="rows.json", field=field, **HELD_OUT)) == ALL
    (problem,) = TextClassification(path="rows.json", field="dat", **HELD_OUT).find_data_problems()
    assert problem.option == "field"
    assert problem.text.startswith("rows.json: there is no key 'dat'")


def test_text_files_are_documents() -> None:
    Path("book").mkdir()
    for i in range(5):
        Path(f"book/{i}.txt").write_text(f"Chapter {i}\nstarts.\n\nIt ends.\n")
    expected = {"line": 15, "paragraph": 10, "document": 5}
    for sample_by, number in expected.items():
        task = PlainText(path={"glob": "book/*.txt"}, sample_by=sample_by, **HELD_OUT)
        assert len(texts(task)) == number
    Path("a.jsonl").write_text('{"text": "x"}\n' * 9)
    with pytest.raises(InputError, match=r"sample_by: has no effect, because .* has no \.txt files"):
        PlainText(path="a.jsonl", sample_by="line", **HELD_OUT).load()


def test_a_text_file_beside_data_files_is_no_data(write: Write) -> None:
    for split in ("train", "dev", "test"):
        write(f"data/{split}.csv", ROWS)
        Path(f"data/{split}_notes.txt").write_text("x\n")
    assert len(texts(TextClassification(path="data"))) == 3 * len(ROWS)


CONLL = "Ann B-PER\nran O\n\nBob B-PER\nsat O\n\n" * 5
QUESTION = {"id": "1", "question": "Who?"}
SQUAD = {"data": [{"paragraphs": [{"context": "Ann ran.", "qas": [QUESTION] * 3}]}]}
REVIEWS = "text;label\n" + "".join(f"Café, {i};{'ab'[i % 2]}\n" for i in range(9))
TRAINED: dict[str, tuple[type[Any], dict[str, Any], str, str]] = {
    "delimiter": (TextClassification, {"delimiter": ";", "encoding": "cp1252"}, "a.csv", REVIEWS),
    "conll": (TokenTagging, {"file_format": "conll", "encoding": "cp1252"}, "a.train", CONLL),
    "squad": (SpanQa, {"file_format": "squad", "allow_no_answer": True}, "a.json", json.dumps(SQUAD)),
    "document": (PlainText, {"sample_by": "document"}, "a.txt", "One.\nTwo.\n"),
    "field": (TextClassification, {"field": "a"}, "a.json", json.dumps({"a": ROWS, "b": ROWS})),
}
PREDICTED: list[tuple[str, str, str, list[str]]] = [
    ("delimiter", "new.csv", "text;other\nCafé, x;y\n", ["Café, x"]),
    ("delimiter", "new.jsonl", '{"text": "Café"}\n', ["Café"]),
    ("delimiter", "new.tsv", "text\tother\nCafé; x\ty\n", ["Café; x"]),
    ("conll", "new.train", "Mérida\nis\n\nBob\n", ["Mérida is", "Bob"]),
    ("conll", "new.conll", "Mérida B-LOC\nis O\n", ["Mérida is"]),
    ("conll", "new.jsonl", '{"tokens": ["Mérida", "is"]}\n', ["Mérida is"]),
    ("squad", "new.json", json.dumps(SQUAD), ["question: Who? context: Ann ran."] * 3),
    ("squad", "new.csv", "question,context\nWho?,Ann ran.\n", ["question: Who? context: Ann ran."]),
    ("document", "new.txt", "Three.\n\nFour.\n", ["Three.\n\nFour."]),
    ("field", "new.json", json.dumps({"a": [{"text": "x"}], "b": [1]}), ["classify: x"]),
]


@pytest.mark.parametrize(("trained", "name", "content", "expected"), PREDICTED)
def test_files_to_predict_are_read_like_those_of_training(
    trained: str, name: str, content: str, expected: list[str]
) -> None:
    kind, options, file, training = TRAINED[trained]
    encoding = options.get("encoding", "utf-8")
    Path(file).write_bytes(training.encode(encoding))
    task = kind(path={"train": file}, **HELD_OUT, **options)
    same_format = (trained == "conll" and not name.endswith(".jsonl")) or Path(name).suffix == Path(file).suffix
    Path(name).write_bytes(content.encode(encoding if same_format else "utf-8"))
    rows: list[Any] = list(read_prediction_inputs(name, task.prediction_options(name)))
    sources = [task.to_prompt(row).source.removeprefix("classify: ") for row in rows]
    assert sources == [text.removeprefix("classify: ") for text in expected]
    Path(file).unlink()  # a run may be used without its data
    if same_format:
        assert list(read_prediction_inputs(name, task.prediction_options(name))) == rows
