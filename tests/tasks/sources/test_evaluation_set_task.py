"""One split of a task is loaded as an evaluation set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import InputError
from peftkit.tasks import MultipleChoice, TextClassification
from peftkit.tasks.sources.evaluation_set_task import EvaluatedTask
from peftkit.tasks.text_tasks.text_multi_label import TextMultiLabel
from peftkit.tasks.token_tagging import TokenTagging
from tests.tasks.conftest import Rows, Write, questions


def evaluated(trained: Any, changes: dict[str, Any], split: str | None = None) -> tuple[EvaluatedTask, Any]:
    """The task of a set, and its rows."""
    version = type(trained).model_validate(trained.options_of_set(changes))
    task, name = version.as_evaluation_set(split, trained)
    return task, task.load()[name]


def reviews(*labels: Any) -> Rows:
    return [{"text": f"film {i}", "label": label} for i, label in enumerate(labels)]


def test_a_file_is_a_set_as_a_whole_with_the_trained_labels(write: Write) -> None:
    trained = TextClassification(
        path=str(write("train.jsonl", reviews(*"abc" * 9))), dev_fraction=0.2, test_fraction=0.2
    )
    task, rows = evaluated(trained, {"path": str(write("other.jsonl", reviews("b", "b")))})
    assert len(rows) == 2
    assert task.labels == trained.labels == ("a", "b", "c")
    assert [task.to_example(row).target for row in rows] == ["b", "b"]
    assert task.describe_row("test", 1).endswith("other.jsonl, row 2")


def test_numbers_are_indices_of_the_trained_labels_only_where_they_are_in_training(write: Write) -> None:
    trained = TextClassification(
        path=str(write("train.jsonl", reviews(*[1, 2, 3] * 9))), dev_fraction=0.2, test_fraction=0.2
    )
    task, rows = evaluated(trained, {"path": str(write("other.jsonl", reviews(3, 1)))})
    assert [task.to_example(row).target for row in rows] == ["3", "1"]


@pytest.mark.parametrize(("split", "expected"), [("mismatched", 3), ("test", 2), (None, 2)])
def test_a_split_of_a_folder(split: str | None, expected: int, write: Write) -> None:
    for name, number in (("train", 8), ("dev", 4), ("test", 2), ("mismatched", 3)):
        file = write(f"{name}.jsonl", questions(number))
    trained = MultipleChoice(
        path=str(file.parent), choices_column="choices.text", answer_column="answerKey", answer_is="label"
    )
    task, rows = evaluated(trained, {"max_rows": 3}, split)
    assert len(rows) == expected
    assert task.describe_row("test", 0).endswith(f"{split or 'test'}.jsonl, row 1")


def test_a_split_that_does_not_exist_is_refused(write: Write) -> None:
    files = {split: str(write(f"{split}.jsonl", questions(4))) for split in ("train", "dev", "test")}
    options = {"choices_column": "choices.text", "answer_column": "answerKey", "answer_is": "label"}
    trained = MultipleChoice(path=files, **options)  # type: ignore[arg-type]
    assert len(evaluated(trained, {}, "dev")[1]) == 4
    with pytest.raises(ValueError, match=r"path has no files for 'tset' \(did you mean 'test'\?\)"):
        evaluated(trained, {}, "tset")
    folder = MultipleChoice(path=str(Path(files["train"]).parent), **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"has no split 'hard'; splits: dev, test, train"):
        evaluated(folder, {}, "hard")


def test_tags_and_sets_of_labels_are_those_of_training(write: Write) -> None:
    tags = write("tags.jsonl", [{"tokens": ["Ann", "eats"], "ner_tags": ["B-PER", "O"]}] * 9)
    tagging = TokenTagging(path=str(tags), dev_fraction=0.2, test_fraction=0.2)
    plain = {"path": str(write("plain.jsonl", [{"tokens": ["he", "eats"], "ner_tags": ["O", "O"]}]))}
    assert evaluated(tagging, plain)[0].labels == tagging.labels
    labels = write("labels.jsonl", [{"text": "x", "labels": ["a", "b"]}, {"text": "y", "labels": ["c"]}] * 6)
    sets = TextMultiLabel(path=str(labels), dev_fraction=0.2, test_fraction=0.2)
    task, rows = evaluated(sets, {"path": str(write("few.jsonl", [{"text": "z", "labels": ["b"]}]))})
    assert (task.labels, task.to_example(rows[0]).target) == (("a", "b", "c"), "b")


def test_invalid_rows_of_a_set_are_skipped_and_located(write: Write) -> None:
    trained = TextClassification(
        path=str(write("train.jsonl", reviews(*"ab" * 9))),
        dev_fraction=0.2,
        test_fraction=0.2,
        on_bad_row="skip",
        max_bad=2,
    )
    other = write("other.jsonl", reviews("a", "x", "b"))
    task, rows = evaluated(trained, {"path": str(other)})
    assert [task.to_example(row).target for row in rows] == ["a", "b"]
    [skipped] = task.skipped_rows()
    assert (skipped.split, skipped.file, skipped.row) == ("test", str(other), 2)
    assert "unknown label 'x'" in skipped.reason
