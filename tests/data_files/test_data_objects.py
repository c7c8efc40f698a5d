"""DataFrames and datasets are stored under a digest of their content, and read back exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from peftkit.data_files import data_name, is_data_object, store_data_object
from peftkit.errors import InputError
from peftkit.tasks.text_tasks.text_classification import TextClassification

ROWS = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(20)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows_of(stored: dict[str, str], split: str = "train") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(stored[split]).to_pylist()
    return rows


def test_equal_content_has_one_file(cache: Path) -> None:
    frame = pd.DataFrame(ROWS)
    stored = store_data_object(frame)
    assert rows_of(stored) == ROWS
    assert Path(stored["train"]).parent.parent == cache / "data"
    for equal in (frame.copy(), frame.set_index(np.arange(20) + 5), pd.DataFrame(ROWS * 2)[:20]):
        assert store_data_object(equal) == stored
    from datasets import Dataset  # of both versions of huggingface_hub

    dataset = Dataset.from_list(ROWS)
    of_dataset = store_data_object(dataset)
    assert store_data_object(Dataset.from_list(ROWS * 2).select(range(20))) == of_dataset
    for other in (frame[::-1], frame[:19], frame.rename(columns={"text": "body"})):
        assert store_data_object(other) != stored


def test_types_survive() -> None:
    frame = pd.DataFrame(
        {
            "text": ["007", None],
            "number": [1, 2],
            "share": [0.5, np.nan],
            "words": [["a", "b"], []],
            "kind": pd.Categorical(["x", "y"]),
            "nested": [{"a": 1}, {"a": 2}],
        }
    )
    assert rows_of(store_data_object(frame)) == [
        {"text": "007", "number": 1, "share": 0.5, "words": ["a", "b"], "kind": "x", "nested": {"a": 1}},
        {"text": None, "number": 2, "share": None, "words": [], "kind": "y", "nested": {"a": 2}},
    ]


def test_splits_and_label_names_are_kept() -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(8)]
    dataset = Dataset.from_list(rows, features=features)
    stored = store_data_object(DatasetDict({"train": dataset, "validation": dataset, "test": dataset.select([3, 0])}))
    assert list(stored) == ["train", "dev", "test"]
    task = TextClassification(path=stored)
    assert task.labels == ("neg", "pos")
    assert [task.to_example(row).target for row in task.load()["test"]] == ["pos", "neg"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([{"text": "x"}], "data: must be a DataFrame, a datasets.Dataset, or one for each split, not"),
        ({"train": "x.csv"}, "data: must be a DataFrame"),
        (pd.DataFrame({"text": []}), "data: has no rows"),
        (pd.DataFrame([[1, 2]]), "data: columns need different names that are texts, not 0, 1"),
        (pd.DataFrame([["x", "y"]], columns=["a", "a"]), "data: columns need different names"),
        (pd.DataFrame({"a": ["x", 1]}), "data: cannot be written as Parquet .*; give each column values of one type"),
        (
            {"train": pd.DataFrame(ROWS), "tset": pd.DataFrame(ROWS)},
            "the split 'tset' is unknown; name the splits train",
        ),
        (
            {"dev": pd.DataFrame(ROWS), "validation": pd.DataFrame(ROWS)},
            "the split 'validation' is dev, like another one",
        ),
        ({"train": pd.DataFrame({"a": []})}, r"data\['train'\]: has no rows"),
    ],
)
def test_other_objects_are_refused(data: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        store_data_object(data)


def test_streams_are_refused() -> None:
    from datasets import Dataset

    with pytest.raises(InputError, match="data: is a stream, which cannot be stored"):
        store_data_object(Dataset.from_list(ROWS).to_iterable_dataset())


def test_paths_are_no_data_objects() -> None:
    for value in (None, "a.csv", {"train": "a.csv"}, {}, {"glob": "*.csv"}):
        assert not is_data_object(value)


def test_errors_name_the_object_and_the_row(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame([*ROWS, {"text": None, "label": "a"}])
    task = TextClassification(path=store_data_object({"train": frame, "test": frame}), dev_fraction=0.2)
    place = "the DataFrame data['test'], row 21"
    assert place in [problem.text.partition(":")[0] for problem in task.find_data_problems()]
    assert task.describe_row("test", 20) == place
    missing = TextClassification(path=store_data_object(frame), text_column="txt", dev_fraction=0.2, test_fraction=0.2)
    with pytest.raises(InputError, match=r"the DataFrame data: text_column: there is no column 'txt'"):
        missing.load()
    monkeypatch.setattr("peftkit.data_files.data_objects._NAMES", {})  # as in a later process
    assert task.describe_row("test", 20).startswith("the object for test that is stored in ")
    assert data_name("a/b.csv") == "a/b.csv"
