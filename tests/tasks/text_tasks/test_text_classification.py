"""Labels are mapped, ignored, and those of all splits together."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from peftkit.errors import InputError
from peftkit.tasks import TextClassification
from tests.tasks.conftest import Write
from tests.tasks.table_files import examples


def labelled(labels: list[Any]) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def label_task(file: Path, **options: Any) -> TextClassification:
    return TextClassification(path={"train": str(file), "dev": str(file), "test": str(file)}, **options)


NAMES = {"0": "negative", "1": "positive"}


@pytest.mark.parametrize(
    ("name", "labels", "mapping", "targets"),
    [
        ("a.csv", ["0", "1"], NAMES, ["negative", "positive"]),
        ("a.jsonl", [0, 1], NAMES, ["negative", "positive"]),
        ("a.jsonl", [0.0, 1.0], NAMES, ["negative", "positive"]),
        ("a.jsonl", [True, False], {"true": "yes"}, ["yes", "false"]),
        ("a.jsonl", [1, 2, 3, 4, 5], {"1": "bad", "2": "bad", "5": "good"}, ["bad", "bad", "3", "4", "good"]),
    ],
)
def test_labels_are_mapped_to_names(
    name: str, labels: list[Any], mapping: dict[str, str], targets: list[str], write: Write
) -> None:
    task = label_task(write(name, labelled(labels)), label_mapping=mapping)
    assert [example.target for example in examples(task)] == targets
    assert sorted(task.labels) == sorted({*targets})
    assert task.find_data_problems() == []


def test_mapped_labels_have_the_order_of_label_names(write: Write) -> None:
    task = label_task(write("a.jsonl", labelled([0, 1])), label_mapping=NAMES, label_names=("positive", "negative"))
    assert [example.target for example in examples(task)] == ["negative", "positive"]
    assert task.labels == ("positive", "negative")


def test_rows_with_ignored_labels_are_left_out_and_counted(write: Write) -> None:
    file = write("a.jsonl", labelled([0, -1, 1, -1, 0]))
    task = label_task(file, ignore_labels=(-1,), label_mapping=NAMES)
    assert [example.target for example in examples(task)] == ["negative", "positive", "negative"]
    assert task.num_ignored_rows() == {"train": 2, "dev": 2, "test": 2}
    assert task.skipped_rows() == []
    assert task.describe_row("dev", 1) == f"{file}, row 3"
    assert task.labels == ("negative", "positive")
    assert task.find_data_problems() == []


def test_rows_without_label_are_invalid_beside_ignored_ones(write: Write) -> None:
    file = write("a.jsonl", labelled([0, -1, 1, None, [-1]]))
    with pytest.raises(InputError, match=r"row 5: label: must be one label"):
        label_task(file, ignore_labels=(-1,)).load()
    task = label_task(file, ignore_labels=(-1,), on_bad_row="skip", max_bad=2)
    assert len(task.load()["train"]) == 2
    assert [row.row for row in task.skipped_rows()] == [4, 5] * 3
    assert task.num_ignored_rows()["dev"] == 1
    assert {p.option for p in task.find_data_problems()} == {"on_bad_row"}


@pytest.mark.parametrize(
    ("options", "targets"),
    [
        ({}, ["bad", "good", "unsure"]),
        ({"ignore_labels": ("unsure",)}, ["bad", "good"]),
        ({"ignore_labels": (2,)}, ["bad", "good"]),
        ({"label_mapping": {"unsure": "bad"}}, ["bad", "good", "bad"]),
        ({"label_mapping": {"2": "bad"}}, ["bad", "good", "bad"]),
    ],
)
def test_names_and_numbers_of_class_labels_are_mapped_and_ignored(
    options: dict[str, Any], targets: list[str], tmp_path: Path
) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good", "unsure"])})
    Dataset.from_list(labelled([0, 1, 2, -1]), features=features).to_parquet(tmp_path / "a.parquet")
    ignored = (*options.pop("ignore_labels", ()), -1)
    task = label_task(tmp_path / "a.parquet", ignore_labels=ignored, **options)
    assert [example.target for example in examples(task)] == targets
    assert task.labels == tuple(dict.fromkeys(targets))


@pytest.mark.parametrize("form", ["jsonl", "csv", "class_label"])
@pytest.mark.parametrize(
    ("options", "unmatched"),
    [
        ({"label_mapping": {"goood": "x"}}, "goood' (did you mean 'good'?); labels: "),
        ({"label_mapping": {"good": "x", "": "y"}}, "'; labels: "),
        ({"label_mapping": {"Good": "x"}}, "Good' (did you mean 'good'?); labels: "),
        ({"ignore_labels": ("unsur",)}, "unsur' (did you mean 'unsure'?); labels: "),
        ({"ignore_labels": (7,)}, "7'; labels: "),
        ({"ignore_labels": (True,)}, "true'; labels: "),
        ({"ignore_labels": ("unsure",)}, ""),
        ({"label_mapping": {"unsure": "bad"}}, ""),
        ({"label_mapping": {"good": "fine", "bad": "poor"}, "label_names": ("poor", "fine", "unsure")}, ""),
    ],
)
def test_mapped_and_ignored_labels_are_in_the_data(
    form: str, options: dict[str, Any], unmatched: str, write: Write, tmp_path: Path
) -> None:
    labels = ["bad", "good", "unsure"]
    file = tmp_path / "a.parquet"
    if form == "class_label":
        features = Features({"text": Value("string"), "label": ClassLabel(names=labels)})
        Dataset.from_list(labelled([0, 1, 2]), features=features).to_parquet(file)
    else:
        file = write(f"a.{form}", labelled(labels))
    task = label_task(file, **options)
    if not unmatched:
        task.load()
        return
    text = f"{next(iter(options))}: no row has the label '{unmatched}"
    with pytest.raises(InputError, match=re.escape(text)):
        task.load()
    assert any(text in problem.text for problem in task.find_data_problems())


def test_labels_of_all_splits_are_labels(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    train, test = write("train.jsonl", labelled(["good", "bad"])), write("test.jsonl", labelled(["good", "god"]))
    task = TextClassification(path={"train": str(train), "dev": str(train), "test": str(test)})
    with caplog.at_level(logging.WARNING):
        task.load()
    text = "label: no training row has the label 'god' of split 'test' (did you mean 'good'?)"
    assert caplog.messages == [text]
    assert task.labels == ("bad", "god", "good")
    assert [(p.text, p.is_error) for p in task.find_data_problems()] == [(text, False)]
    with pytest.raises(InputError, match="unknown label 'god'"):
        task.model_copy(update={"label_names": ("good", "bad")}).to_example(labelled(["god"])[0])


def test_splits_may_spell_numbers_differently(write: Write) -> None:
    train, test = write("train.csv", labelled(["0", "1"])), write("test.jsonl", labelled([1, 0.0]))
    task = TextClassification(path={"train": str(train), "dev": str(train), "test": str(test)})
    task.load()
    assert task.labels == ("0", "1")


def test_samples_and_held_out_rows_keep_every_label(write: Write) -> None:
    labels = ["often"] * 300 + ["sometimes"] * 97 + ["rare"] * 2 + ["once"]
    file = str(write("a.jsonl", labelled(labels)))
    for seed in range(5):
        task = TextClassification(path=file, dev_fraction=0.3, test_fraction=0.3, max_rows=40, split_seed=seed)
        splits = task.load()
        assert [len(rows) for rows in splits.values()] == [40, 40, 40]
        counts = Counter(splits["train"]["label"])
        assert counts["once"] == 1
        assert counts["rare"] >= 1
        assert 28 <= counts["often"] <= 31
        assert task.labels == ("often", "once", "rare", "sometimes")


@pytest.mark.parametrize(
    ("labels", "ignored"),
    [
        (["0", "1", "2", "-1"], ["-1"]),
        (["0", "1"] * 6 + ["-1"], ["-1"]),
        (["0", "1", "-1"], None),
        (["1", "-1"], None),
        (["good", "-1"], None),
    ],
)
def test_rows_without_label_are_recognized(labels: list[str], ignored: list[str] | None, tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("text,label\n" + "".join(f"some text {i},{labels[i % len(labels)]}\n" for i in range(60)))
    match = max(TextClassification.recognize(str(file)), key=lambda each: each.score)
    assert match.options.get("ignore_labels") == ignored


@pytest.mark.parametrize("column", ["text", "label"])
def test_columns_with_a_missing_value_are_recognized(column: str, tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    rows = [{"text": f"some text {i}", "label": "ab"[i % 2]} for i in range(60)]
    rows[7][column] = ""
    file.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    match = max(TextClassification.recognize(str(file)), key=lambda each: each.score)
    assert match.options["label_column"] == "label"
