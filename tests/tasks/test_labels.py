"""Labels: their names, order and numbers; mapped, ignored, and those of all splits together."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from peftkit.errors import InputError
from peftkit.tasks.generic import TextClassification
from tests.tasks.conftest import Write
from tests.tasks.table_files import examples


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
def test_labels_are_in_natural_order(labels: Sequence[Any], names: Sequence[str], write: Write) -> None:
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
        ([["a"], ["b"]], {}, r"a\.jsonl, row 1: label: must be one label, .*, not the list \['a'\]"),
        (["a", ["b"]], {}, r"a\.jsonl, row 2: label: must be one label, .*, not the list \['b'\]"),
        (["a", ["b"]], {"label_names": ("a", "b")}, r"row 2: label: must be one label, .*, not the list \['b'\]"),
        (["a", {"b": 1}], {}, r"row 2: label: must be one label, .*, not the table \{'b': 1\}"),
        (["a", "b", 1], {}, r"row 3: label: the label 1 is a number, but the label of .*, row 1 is a text;"),
        ([1, "b"], {}, r"row 2: label: the label 'b' is a text, but the label of .*row 1 is a number"),
        ([True, 1], {}, r"row 2: label: the label 1 is a number, but the label of .*row 1 is a boolean"),
        (["a", None], {}, r"row 2: label: is empty"),
        (["a", " "], {}, r"row 2: label: is empty"),
        (["a", "b", "a "], {}, r"label: the labels 'a' and 'a ' differ only in whitespace"),
        (["a  b", "a b"], {}, r"label: the labels 'a  b' and 'a b' differ only in whitespace"),
        (["\u00e9", "e\u0301"], {}, r"label: the labels .* differ only in Unicode normalization"),
        (["a", "a"], {}, r"label: has one label, 'a'; at least 2 are required"),
        ([1, 1.0], {}, r"label: has one label, '1'; at least 2 are required"),
        ([None, None], {}, r"row 1: label: is empty"),
        ([0, 1, 2], {"label_names": ("a", "b")}, r"row 3: label: the label 2 is out of range for 2 labels"),
        (["1", "2", "0"], {"label_names": ("1", "2", "3")}, r"row 3: label: unknown label '0'.*; labels: 1, 2, 3"),
        (["a", "b"], {"verbalisers": {"c": "x"}}, r"verbalisers: unknown label 'c'; labels: a, b"),
        (["good", "bad"], {"verbalisers": {"goood": "x"}}, r"verbalisers: unknown label 'goood' .did you mean 'good'"),
        (["a", "b"], {"verbalisers": {"a": "x", "b": "x"}}, r"the labels 'a' and 'b' have the same text 'x'"),
        (["a", "b"], {"verbalisers": {"a": "b"}}, r"the labels 'a' and 'b' have the same text 'b'"),
        (["a", "b"], {"verbalisers": {"a": " "}}, r"verbalisers: the text of the label 'a' is empty"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("nested", [False, True])
def test_invalid_labels_are_rejected(
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


def test_nested_labels(write: Write, tmp_path: Path) -> None:
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


def test_splits_and_recipe_must_number_labels_equally(tmp_path: Path) -> None:
    files = []
    for number, names in enumerate((["no", "yes"], ["yes", "no"])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        files.append(str(tmp_path / f"{number}.parquet"))
        Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features).to_parquet(files[-1])
    one, other = files
    with pytest.raises(
        InputError, match=r"label: the label 'yes' is number 0 in split 'test', but number 1 in the training "
    ):
        TextClassification(path={"train": one, "dev": one, "test": other}).load()
    with pytest.raises(
        InputError, match=r"label: the label 'no' is number 0 in split 'train', but number 1 in label_names"
    ):
        TextClassification(path={"train": one, "dev": one, "test": one}, label_names=("yes", "no")).load()
    with pytest.raises(
        InputError, match=r"1\.parquet: the label names of column 'label' \(yes, no\) differ from those in "
    ):
        TextClassification(path={"train": files, "dev": one, "test": one}).load()
    streamed = {"streaming": True, "label_names": ("yes", "no")}
    (tmp_path / "a.csv").write_text("text,label\na,yes\n")
    rows = str(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"the label 'no' is number 0 in split 'train', but number 1 in label_names"):
        TextClassification(path={"train": one, "dev": rows, "test": rows}, **streamed).load()
    with pytest.raises(InputError, match=r"1\.parquet: the label names of column 'label'"):
        TextClassification(path={"train": files, "dev": rows, "test": rows}, **streamed).load()
    renamed = TextClassification(path={"train": one, "dev": one, "test": one}, label_names=("bad", "good"))
    assert [example.target for example in examples(renamed)] == ["bad", "good"]


def labelled(labels: list[Any]) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def task_of_file(file: Path, **options: Any) -> TextClassification:
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
    task = task_of_file(write(name, labelled(labels)), label_mapping=mapping)
    assert [example.target for example in examples(task)] == targets
    assert sorted(task.labels) == sorted({*targets})
    assert task.find_data_problems() == []


def test_mapped_labels_have_the_order_of_label_names(write: Write) -> None:
    task = task_of_file(write("a.jsonl", labelled([0, 1])), label_mapping=NAMES, label_names=("positive", "negative"))
    assert [example.target for example in examples(task)] == ["negative", "positive"]
    assert task.labels == ("positive", "negative")


def test_rows_with_ignored_labels_are_left_out_and_counted(write: Write) -> None:
    file = write("a.jsonl", labelled([0, -1, 1, -1, 0]))
    task = task_of_file(file, ignore_labels=(-1,), label_mapping=NAMES)
    assert [example.target for example in examples(task)] == ["negative", "positive", "negative"]
    assert task.num_ignored_rows() == {"train": 2, "dev": 2, "test": 2}
    assert task.skipped_rows() == []
    assert task.describe_row("dev", 1) == f"{file}, row 3"
    assert task.labels == ("negative", "positive")
    assert task.find_data_problems() == []


def test_rows_without_label_are_invalid_beside_ignored_ones(write: Write) -> None:
    file = write("a.jsonl", labelled([0, -1, 1, None, [-1]]))
    with pytest.raises(InputError, match=r"row 5: label: must be one label"):
        task_of_file(file, ignore_labels=(-1,)).load()
    task = task_of_file(file, ignore_labels=(-1,), on_bad_row="skip", max_bad=2)
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
    task = task_of_file(tmp_path / "a.parquet", ignore_labels=ignored, **options)
    assert [example.target for example in examples(task)] == targets
    assert task.labels == tuple(dict.fromkeys(targets))


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
