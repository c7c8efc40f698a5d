"""Local folders: saved datasets, READMEs with configurations, and names with special characters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from peftkit.data_files import read_prediction_inputs
from peftkit.errors import InputError
from peftkit.tasks import TextClassification, TextGeneration
from peftkit.tasks.sources.split_loading import DataSource, load_splits, row_location
from tests.tasks.conftest import Write
from tests.tasks.table_files import examples


def test_single_precision_floats_of_saved_datasets_keep_their_decimals(tmp_path: Path) -> None:
    features = Features({"source": Value("string"), "target": Value("float32"), "kind": ClassLabel(names=["x", "y"])})
    rows = {"source": ["a", "b"], "target": [0.1, 2.5], "kind": [1, 0]}
    saved = Dataset.from_dict(rows, features=features).select([1, 0])
    saved.save_to_disk(tmp_path / "one")
    DatasetDict(dict.fromkeys(("train", "dev", "test"), saved)).save_to_disk(tmp_path / "several")
    one = str(tmp_path / "one")
    for path in (str(tmp_path / "several"), {"train": one, "dev": one, "test": one}):
        splits = TextGeneration(path=path).load()
        assert list(splits["train"]) == [
            {"source": s, "target": t, "kind": k} for s, t, k in (("b", 2.5, 0), ("a", 0.1, 1))
        ]
        assert splits["train"].features["kind"].names == ["x", "y"]


@pytest.mark.parametrize("answered", [False, True])
def test_predict_reads_saved_datasets(answered: bool, tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "score": 0.5, **({"label": "ab"[i % 2]} if answered else {})} for i in range(4)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "one")
    assert list(read_prediction_inputs(str(tmp_path / "one"))) == rows
    DatasetDict(test=Dataset.from_list(rows)).save_to_disk(tmp_path / "several")
    with pytest.raises(InputError, match="several: has the splits test; choose the folder of one of them"):
        list(read_prediction_inputs(str(tmp_path / "several")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty' is a folder that Dataset\.save_to_disk did not write"):
        list(read_prediction_inputs(str(tmp_path / "empty")))
    Dataset.from_list(rows).select([]).save_to_disk(tmp_path / "none")
    with pytest.raises(InputError, match="none: has no rows"):
        list(read_prediction_inputs(str(tmp_path / "none")))


def test_a_folder_may_have_any_name(write: Write, tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        write(f"[x]*?/{split}.csv", [{"text": split, "label": "01"}])
    assert load_splits(DataSource(str(tmp_path / "[x]*?"))).splits["dev"].to_list() == [{"text": "dev", "label": "01"}]


def test_files_of_a_readme_are_read_without_type_inference(write: Write, tmp_path: Path) -> None:
    header = "---\nconfigs:\n- config_name: default\n  data_files:\n"
    splits = "".join(f"  - split: {s}\n    path: rows/{s}_x.csv\n" for s in ("train", "validation", "test"))
    for split in ("train", "validation", "test"):
        write(f"data/rows/{split}_x.csv", [{"text": "007", "label": "01"}, {"text": "true", "label": "02"}])
    (tmp_path / "data/README.md").write_text(f"{header}{splits}---\n")
    rows = load_splits(DataSource(str(tmp_path / "data"))).splits["dev"].to_list()
    assert rows == [{"text": "007", "label": "01"}, {"text": "true", "label": "02"}]
    declared = "dataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype: int64\n"
    (tmp_path / "data/README.md").write_text(f"{header}{splits}{declared}---\n")
    assert load_splits(DataSource(str(tmp_path / "data"))).splits["dev"]["label"][:] == [1, 2]


def test_saved_datasets_are_split_like_files(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": [f"t{i}" for i in range(20)], "label": ["a", "b"] * 10})
    rows.save_to_disk(tmp_path / "one")
    task = TextClassification(path=str(tmp_path / "one"), dev_fraction=0.2, test_fraction=0.2)
    splits = task.load()
    assert {split: len(part) for split, part in splits.items()} == {"train": 12, "dev": 4, "test": 4}
    number = int(splits["dev"][1]["text"][1:])
    assert row_location(task._data_source(), "dev", 1) == f"{tmp_path}/one, row {number + 1}"
    rows.save_to_disk(tmp_path / "several/train")
    rows.select(range(4)).save_to_disk(tmp_path / "several/validation")
    source = DataSource(str(tmp_path / "several"), test_fraction=0.5)
    assert {split: len(part) for split, part in load_splits(source).splits.items()} == {
        "train": 10,
        "test": 10,
        "dev": 4,
    }
    splits["dev"].save_to_disk(tmp_path / "again")  # has the numbers of its rows among all
    again = TextClassification(path=str(tmp_path / "again"), dev_fraction=0.3, test_fraction=0.3)
    numbers = [again.describe_row(split, i) for split, part in again.load().items() for i in range(len(part))]
    assert sorted(numbers) == [f"{tmp_path}/again, row {number}" for number in (1, 2, 3, 4)]
    folders = {"train": str(tmp_path / "one"), "dev": str(tmp_path / "one"), "test": str(tmp_path / "one")}
    assert len(TextClassification(path=folders).load()["dev"]) == 20
    streamed = TextClassification(path=folders, streaming=True, label_names=("a", "b"))
    assert len(examples(streamed)) == 20


def test_other_files_of_the_folder_may_be_unreadable(write: Write, tmp_path: Path) -> None:
    for split in ("train", "dev", "test"):
        write(f"data/{split}.csv", [{"text": split, "label": "a"}])
    (tmp_path / "data/._train.csv").write_bytes(b"\0\0")
    (tmp_path / "data/notes.csv").write_text("a,b\n1\n")
    (tmp_path / "data/metadata.json").write_text("")
    assert load_splits(DataSource(str(tmp_path / "data"))).splits["train"].to_list() == [
        {"text": "train", "label": "a"}
    ]


def test_the_format_of_a_saved_dataset_is_reset(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": [f"t{i}" for i in range(10)], "label": [0, 1] * 5})
    rows.with_format("torch", columns=["label"]).save_to_disk(tmp_path / "one")
    shares: dict[str, Any] = {"dev_fraction": 0.2, "test_fraction": 0.2}
    expected = {"0", "1"}
    assert {
        example.target for example in examples(TextClassification(path=str(tmp_path / "one"), **shares))
    } == expected
    splits = dict.fromkeys(("train", "dev", "test"), rows.with_format("numpy", columns=["label"]))
    DatasetDict(splits).save_to_disk(tmp_path / "all")
    assert {example.target for example in examples(TextClassification(path=str(tmp_path / "all")))} == expected


SUBSETS = (
    ("en/train.csv", "en/test.csv", "de/train.csv", "de/test.csv"),
    ("data/en/train/1.csv", "data/en/test/1.csv", "data/de/train/1.csv", "data/de/test/1.csv"),
    ("en/a.csv", "de/b.csv"),
)


@pytest.mark.parametrize("names", SUBSETS)
def test_subsets_in_subfolders_are_not_joined(names: tuple[str, ...], write: Write, tmp_path: Path) -> None:
    for name in names:
        write(name, [{"text": f"{name} {number}", "label": "ab"[number % 2]} for number in range(4)])
    held_out = {"dev_fraction": 0.25, "test_fraction": 0.25}
    with pytest.raises(InputError, match=r"config: .* in several subfolders: de, en; set config .*\*\*/\*\.csv"):
        load_splits(DataSource(str(tmp_path), **held_out))
    source = DataSource(str(tmp_path), config="en", **held_out)
    assert {row["text"].rsplit(" ", 1)[0] for row in load_splits(source).splits["train"]} == {names[0]}
    with pytest.raises(InputError, match=r"has no subset 'fr'.*subsets: "):
        load_splits(DataSource(str(tmp_path), config="fr", **held_out))


@pytest.mark.parametrize("names", [("train/1.csv", "train/2.csv"), ("data/train_1/a.csv", "data/train_2/b.csv")])
def test_files_in_folders_of_a_split_are_joined(names: tuple[str, ...], write: Write, tmp_path: Path) -> None:
    for name in (*names, "test/1.csv"):
        write(name, [{"text": name, "label": "a"}])
    rows = load_splits(DataSource(str(tmp_path), dev_fraction=0.5)).splits
    assert sorted(row["text"] for split in ("train", "dev") for row in rows[split]) == [*names]
