"""Multi-label classification on the user's own data."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value
from pydantic import ValidationError

from peftkit.errors import InputError, RowError
from peftkit.tasks.text_tasks.text_multi_label import TextMultiLabel
from tests.tasks.conftest import Write


def task(**options: Any) -> TextMultiLabel:
    return TextMultiLabel(**{"path": "data", "label_names": ["joy", "fear", "anger"], **options})


@pytest.mark.parametrize(
    ("options", "row", "target"),
    [
        ({}, {"labels": ["anger", "joy"]}, "joy, anger"),
        ({}, {"labels": [2, 0]}, "joy, anger"),
        ({}, {"labels": []}, "none"),
        ({}, {"labels": None}, "none"),
        ({"label_delimiter": ";"}, {"labels": "fear; joy"}, "joy, fear"),
        ({"label_delimiter": ";", "no_label": "neutral"}, {"labels": ""}, "neutral"),
        ({"label_names": (), "label_columns": ("joy", "fear")}, {"joy": "0", "fear": True}, "fear"),
    ],
)
def test_labels_are_read_from_lists_texts_and_columns(options: Any, row: Any, target: str) -> None:
    example = task(**options).to_example({"text": "Boo!", **row})
    assert (example.source, example.target) == ("labels: Boo!", target)
    assert task(**options).to_prompt({"text": "Boo!"}).source == example.source


@pytest.mark.parametrize(
    ("options", "row", "message"),
    [
        ({}, {"labels": "joy;fear"}, "must be a list of labels, not 'joy;fear'; set label_delimiter"),
        ({}, {"labels": ["hope"]}, "unknown label 'hope'"),
        ({}, {"labels": [3]}, "the label 3 is out of range"),
        ({}, {"labels": ["joy", ""]}, "must be a list of labels, but contains ''"),
        ({}, {}, "there is no such field"),
        ({"label_delimiter": ";"}, {"labels": ["joy"]}, "leave label_delimiter out"),
        ({"label_names": (), "label_columns": ("labels", "fear")}, {"labels": 2}, "must be 1 or 0, not 2"),
    ],
)
def test_other_labels_are_errors(options: Any, row: Any, message: str) -> None:
    with pytest.raises(RowError, match=r"^labels: ") as error:
        task(**options).to_example({"text": "Boo!", **row})
    assert message in str(error.value)


def test_labels_are_those_of_all_splits(write: Write) -> None:
    for split, labels in (("train", ["b10", "b2"]), ("validation", ["a"]), ("test", [])):
        path = write(f"data/{split}.jsonl", [{"text": "x", "labels": labels}])
    collected = task(path=str(path.parent), label_names=())
    assert collected.labels == ("a", "b2", "b10")
    assert collected.to_example({"text": "x", "labels": ["b10", "a"]}).target == "a, b10"


def test_numbers_are_those_of_the_features(tmp_path: Any) -> None:
    features = Features({"text": Value("string"), "labels": Sequence(ClassLabel(names=["admiration", "amusement"]))})
    rows = Dataset.from_dict({"text": ["x", "y"], "labels": [[1, 0], []]}, features=features)
    DatasetDict({"train": rows, "validation": rows, "test": rows}).save_to_disk(tmp_path / "emotions")
    emotions = task(path=str(tmp_path / "emotions"), label_names=())
    assert [emotions.to_example(row).target for row in emotions.load()["dev"]] == ["admiration, amusement", "none"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_names": ["a"]}, "has one label; at least 2 are required"),
        ({"label_names": ["a", "a"]}, "'a' occurs twice; keep one"),
        ({"label_names": ["a", "b, c"]}, "the label 'b, c' has a comma"),
        ({"label_names": ["a", "none"]}, "no_label: 'none' is one of the labels"),
        ({"label_columns": ["a", "b"]}, "label_names: has no effect, because label_columns"),
        ({"label_names": (), "streaming": True}, "label_names: required with streaming"),
        ({"prompt": "{text} {labels}"}, r"the field \{labels\} contains the answer"),
    ],
)
def test_invalid_options_are_explained(options: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        task(**options)


def test_data_with_one_label_are_refused(write: Write) -> None:
    for split in ("train", "validation", "test"):
        path = write(f"data/{split}.jsonl", [{"text": "x", "labels": ["a"]}])
    with pytest.raises(InputError, match="labels: has one label, 'a'; at least 2 are required"):
        task(path=str(path.parent), label_names=()).load()


def test_lists_of_labels_are_recognized_beside_no_other_list(write: Write) -> None:
    rows = [{"text": f"a {i}", "genres": ["drama", "crime"][: i % 3]} for i in range(20)]
    [match] = TextMultiLabel.recognize(str(write("data/train.jsonl", rows)))
    assert match.options.items() >= {"text_column": "text", "label_column": "genres"}.items()
    tagged = [{**row, "tokens": ["a", "b"]} for row in rows]
    assert TextMultiLabel.recognize(str(write("tagged/train.jsonl", tagged))) == []
