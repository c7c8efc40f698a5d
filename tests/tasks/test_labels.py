"""Labels: their names, their order and their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from peftkit.errors import InputError
from peftkit.tasks import TextClassification
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
