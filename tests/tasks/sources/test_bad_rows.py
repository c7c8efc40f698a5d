"""Invalid rows stop a run, or are skipped, counted and listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from peftkit.errors import InputError
from peftkit.tasks import MultipleChoice, TextClassification, TextGeneration
from peftkit.tasks.text_tasks.text_multi_label import TextMultiLabel
from peftkit.tasks.token_tagging import TokenTagging
from tests.tasks.conftest import Write
from tests.tasks.table_files import examples

SKIP: dict[str, Any] = {"on_bad_row": "skip", "max_bad": "50%"}


def reviews(number: int, bad: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    return [{"text": "" if i in bad else f"text {i}", "label": "ab"[i % 2]} for i in range(number)]


def of_one_file(file: Path) -> dict[str, Any]:
    return {"path": {"train": str(file), "dev": str(file), "test": str(file)}}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_invalid_rows_are_skipped_and_located(name: str, write: Write) -> None:
    file = write(name, reviews(8, bad=(2, 5)))
    with pytest.raises(InputError, match=r"row 3: text: is empty"):
        examples(TextClassification(**of_one_file(file)))
    task = TextClassification(**of_one_file(file), **SKIP)
    splits = task.load()
    assert [row["text"] for row in splits["dev"]] == [f"text {i}" for i in (0, 1, 3, 4, 6, 7)]
    located = [(row.split, row.file, row.row, row.reason) for row in task.skipped_rows()]
    assert located == [(s, str(file), row, "text: is empty") for s in ("train", "dev", "test") for row in (3, 6)]
    assert [task.describe_row("train", i) for i in (1, 2, 4)] == [f"{file}, row {n}" for n in (2, 4, 7)]
    assert TextClassification(**of_one_file(file), **SKIP).describe_row("test", 5) == f"{file}, row 8"


def test_rows_of_held_out_splits_are_located(write: Write) -> None:
    file = str(write("a.jsonl", reviews(40, bad=(3, 17, 30))))
    task = TextClassification(path=file, dev_fraction=0.3, test_fraction=0.3, max_rows=10, **SKIP)
    splits = task.load()
    assert sum(map(len, splits.values())) + len(task.skipped_rows()) == 30
    assert {row.row for row in task.skipped_rows()} <= {4, 18, 31}
    for split, rows in splits.items():
        for index, row in enumerate(rows):
            assert task.describe_row(split, index) == f"{file}, row {int(row['text'].split()[1]) + 1}"


@pytest.mark.parametrize(
    ("max_bad", "refused"), [("1%", True), ("20%", False), ("19.9%", True), (2, False), (1, True), ("0%", True)]
)
def test_too_many_invalid_rows_are_refused(max_bad: Any, refused: bool, write: Write) -> None:
    file = write("a.jsonl", reviews(10, bad=(2, 5)))
    task = TextClassification(**of_one_file(file), on_bad_row="skip", max_bad=max_bad)
    problems = task.find_data_problems()
    assert [p.is_error for p in problems] == [refused] * 3
    assert all("2 of 10 rows of" in p.text and f"{file}, row 3: text: is empty" in p.text for p in problems)
    if refused:
        words = rf"train: max_bad: 2 of 10 rows are invalid, but max_bad allows {max_bad}; .*a\.jsonl, row 3: text"
        with pytest.raises(InputError, match=words):
            task.load()
    else:
        assert len(task.load()["train"]) == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_bad_row": "skip", "max_bad": "many"}, "'many' is neither a number of rows nor a percentage"),
        ({"on_bad_row": "skip", "max_bad": "101%"}, "'101%' is neither"),
        ({"on_bad_row": "skip", "max_bad": -1}, "must not be negative"),
        ({"max_bad": "2%"}, "max_bad: has no effect, because on_bad_row is 'stop'; remove it"),
    ],
)
def test_invalid_limits_are_refused(options: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TextGeneration(path="x", **options)


def test_invalid_labels_and_choices_are_skipped(write: Write) -> None:
    rows = [*reviews(6), {"text": "x", "label": ["a"]}, {"text": "y", "label": None}]
    task = TextClassification(**of_one_file(write("a.jsonl", rows)), **SKIP)
    assert len(task.load()["train"]) == 6
    assert task.labels == ("a", "b")
    good = {"question": "q", "choices": ["x", "y"], "answer": "x"}
    file = write("b.jsonl", [good, {**good, "choices": ["x", "x"]}, {**good, "answer": "z"}])
    choices = MultipleChoice(**of_one_file(file), on_bad_row="skip", max_bad=2)
    assert len(choices.load()["train"]) == 1
    assert [row.reason.split(":")[0] for row in choices.skipped_rows()][:2] == ["choices", "answer"]


def test_rows_with_invalid_label_sets_and_tags_are_skipped(write: Write) -> None:
    file = write("c.jsonl", [{"text": "x", "labels": labels} for labels in (["a"], ["b"], "a", [None])])
    sets = TextMultiLabel(**of_one_file(file), **SKIP)
    assert len(sets.load()["train"]) == 2
    assert sets.labels == ("a", "b")
    file = write("d.jsonl", [{"tokens": ["x", "y"], "ner_tags": tags} for tags in (["O", "B-a"], ["O"], ["O", "I-a"])])
    tags = TokenTagging(**of_one_file(file), on_bad_row="skip", max_bad=2)
    assert len(tags.load()["train"]) == 1
    assert [row.row for row in tags.skipped_rows()][:2] == [2, 3]


def test_errors_that_are_not_of_a_row_stop(write: Write) -> None:
    file = write("a.jsonl", reviews(6))
    with pytest.raises(InputError, match="there is no column 'body'"):
        TextClassification(**of_one_file(file), **SKIP, text_column="body").load()


def test_rows_of_a_stream_are_skipped_while_they_are_read(write: Write) -> None:
    file = write("a.jsonl", reviews(20, bad=(2, 5)))
    options: dict[str, Any] = {"label_names": ("a", "b"), "streaming": True, "on_bad_row": "skip"}
    task = TextClassification(**of_one_file(file), **options, max_bad="10%")
    train: Any = task.load()["train"]
    assert {row.split for row in task.skipped_rows()} == {"dev", "test"}
    for _ in range(2):  # an epoch does not count them again
        assert len(list(train)) == 18
        assert [(row.row, row.split) for row in task.skipped_rows()][:2] == [(3, "train"), (6, "train")]
        assert len(task.skipped_rows()) == 6
    assert task.describe_row("train", 4) == f"{file}, row 7"
    with pytest.raises(InputError, match="max_bad"):
        list(TextClassification(**of_one_file(file), **options, max_bad=1).load()["train"])


def test_a_stream_of_several_files_shows_skipped_rows(write: Write) -> None:
    files = [str(write(f"{name}.jsonl", reviews(5, bad=(1,)))) for name in "xy"]
    path: Any = {"train": files, "dev": files, "test": files}
    task = TextClassification(path=path, label_names=("a", "b"), streaming=True, **SKIP)
    assert len(list(task.load()["train"])) == 8
    streamed = [row for row in task.skipped_rows() if row.split == "train"]
    assert [row.row for row in streamed] == [0]  # both have the same content
    assert "'label': 'b'" in str(streamed[0])
