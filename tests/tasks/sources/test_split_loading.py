"""Every source of rows, and errors in them."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.answer_texts.text_normalization import normalize
from peftkit.errors import DataError, InputError
from peftkit.tasks import SpanQa, TextClassification
from peftkit.tasks.sources.row_groups import RowGroups
from peftkit.tasks.sources.split_loading import (
    ORIGIN,
    DataSource,
    limit_train_rows,
    load_splits,
    row_location,
    undownloaded_builder,
)
from peftkit.tasks.sources.splitting import hold_out
from tests.tasks.conftest import Write, tweets

SPLITS = ("train", "validation", "test")
SIZES = {"train": 12, "dev": 5, "test": 4}


def sizes(source: DataSource) -> dict[str, int]:
    return {split: len(rows) for split, rows in load_splits(source).splits.items()}


def folder(write: Write, pattern: str) -> None:
    for name, number in zip(SPLITS, SIZES.values(), strict=True):
        write(pattern.format(name), tweets(number))


@pytest.mark.parametrize(
    "pattern",
    [
        "data/{}.parquet",
        "data/{}.csv",
        "data/{}.tsv",
        "data/{}.jsonl",
        "data/{}.json",
        "data/data/{}-00000-of-00001.parquet",
        "data/emotion/{}-00000-of-00001.parquet",
    ],
)
def test_a_folder_in_the_hubs_layout_is_loaded(pattern: str, write: Write, tmp_path: Path) -> None:
    folder(write, pattern)
    source = DataSource(str(tmp_path / "data"), config="emotion" if "emotion" in pattern else None)
    assert sizes(source) == SIZES
    row = load_splits(source).splits["dev"][3]
    assert (row["text"], int(row["label"])) == ("tweet 3 #tag @user é", 3)


def test_a_configuration_may_be_a_subfolder(write: Write, tmp_path: Path) -> None:
    folder(write, "data/hate/{}-00000-of-00001.parquet")
    write("data/emotion/train-00000-of-00001.parquet", tweets(3))
    assert sizes(DataSource(str(tmp_path / "data"), config="hate")) == SIZES


def test_shards_are_concatenated(write: Write, tmp_path: Path) -> None:
    folder(write, "data/{}.parquet")
    (tmp_path / "data/train.parquet").unlink()
    for shard in range(3):
        write(f"data/train-0000{shard}-of-00003.parquet", tweets(4))
    source = DataSource(str(tmp_path / "data"))
    assert sizes(source) == SIZES
    assert row_location(source, "train", 5) == f"{tmp_path}/data/train-00001-of-00003.parquet, row 2"


def test_a_saved_dataset_dict_is_loaded(tmp_path: Path) -> None:
    splits = {name: Dataset.from_list(tweets(n)) for name, n in zip(SPLITS, SIZES.values(), strict=True)}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    source = DataSource(str(tmp_path / "saved"))
    assert sizes(source) == SIZES
    assert row_location(source, "test", 1) == f"'{tmp_path}/saved', split 'test', row 2"


def test_configurations_of_a_readme_are_loaded(write: Write, tmp_path: Path) -> None:
    folder(write, "data/odd/{}_rows.jsonl")
    files = "".join(f"  - split: {name}\n    path: odd/{name}_rows.jsonl\n" for name in SPLITS)
    text = f"---\nconfigs:\n- config_name: one\n  data_files:\n{files}---\n"
    (tmp_path / "data/README.md").write_text(text)
    assert sizes(DataSource(str(tmp_path / "data"), config="one")) == SIZES


def test_splits_may_be_files_of_different_formats(write: Write) -> None:
    a, b, c = write("a.csv", tweets(4)), write("b.jsonl", tweets(5)), write("c.parquet", tweets(6))
    source = DataSource((("train", (str(a),)), ("dev", (str(b),)), ("test", (str(c),))))
    assert sizes(source) == {"train": 4, "dev": 5, "test": 6}
    assert row_location(source, "dev", 2) == f"{b}, row 3"


def test_csv_words_for_missing_values_are_texts(write: Write) -> None:
    file = write("a.csv", [{"text": word, "label": "x"} for word in ("NA", "None", "null", "nan", "")])
    source = DataSource(str(file), dev_fraction=0.2, test_fraction=0.2)
    rows = [row for split in load_splits(source).splits.values() for row in split]
    assert {row["text"] for row in rows} == {"NA", "None", "null", "nan", None}


@pytest.mark.parametrize("column", ["label", "meta.label"])
def test_held_out_shares_are_stratified_seeded_and_disjoint(column: str, write: Write) -> None:
    labels = ["a" if i % 10 else "b" for i in range(200)]
    rows = [{"text": f"t{i}", "label": label, "meta": {"label": label}} for i, label in enumerate(labels)]
    file = str(write("rows.jsonl", rows))
    source = DataSource(file, dev_fraction=0.1, test_fraction=0.25, stratify=column)
    splits = load_splits(source).splits
    assert {s: len(r) for s, r in splits.items()} == {"train": 130, "test": 50, "dev": 20}
    assert Counter(splits["test"]["label"]) == {"a": 45, "b": 5}
    texts = [text for split in splits.values() for text in split["text"]]
    assert sorted(texts) == sorted(row["text"] for row in rows)
    assert (
        splits["dev"]["text"]
        == load_splits(DataSource(file, dev_fraction=0.1, test_fraction=0.25, stratify=column)).splits["dev"]["text"]
    )
    other = load_splits(DataSource(file, dev_fraction=0.1, test_fraction=0.25, stratify=column, seed=7)).splits
    assert list(other["dev"]["text"]) != list(splits["dev"]["text"])
    for split in splits:
        for index in (0, len(splits[split]) - 1):
            number = int(splits[split][index]["text"][1:])
            assert row_location(source, split, index) == f"{file}, row {number + 1}"


def test_max_rows_samples_rows_with_the_seed(write: Write, tmp_path: Path) -> None:
    folder(write, "data/{}.parquet")
    source = DataSource(str(tmp_path / "data"), max_rows=4)
    splits = load_splits(source).splits
    assert {s: len(r) for s, r in splits.items()} == {"train": 4, "dev": 4, "test": 4}
    row = splits["train"][2]
    assert row["text"] == f"tweet {row[ORIGIN]} #tag @user é"
    assert row_location(source, "train", 2).endswith(f"train.parquet, row {row[ORIGIN] + 1}")


def test_split_names_can_be_given(write: Write, tmp_path: Path) -> None:
    folder(write, "data/{}.parquet")
    source = DataSource(str(tmp_path / "data"), names=(None, None, "validation"), dev_fraction=0.25)
    assert sizes(source) == {"train": 9, "test": 5, "dev": 3}


def test_only_training_rows_are_streamed(write: Write, tmp_path: Path) -> None:
    folder(write, "data/{}.jsonl")
    splits: Any = load_splits(DataSource(str(tmp_path / "data"), streaming=True)).splits
    assert isinstance(splits["train"], IterableDataset)
    assert len(list(splits["train"])) == 12
    assert (len(splits["dev"]), len(splits["test"])) == (5, 4)
    taken: Any = load_splits(DataSource(str(tmp_path / "data"), streaming=True, max_rows=3)).splits
    assert len(list(taken["train"])) == 3


def test_a_changed_file_is_read_again(write: Write) -> None:
    def source() -> DataSource:
        return DataSource((("train", (str(file),)), ("dev", (str(file),)), ("test", (str(file),))))

    file = write("a.jsonl", tweets(3))
    assert sizes(source())["train"] == 3
    write("a.jsonl", tweets(7))
    assert sizes(source())["train"] == 7


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("rows.csv", "path: there is no file 'rows.csv'"),
        ("pandas", "'pandas' is neither a file, a folder nor a hub id"),
        ("no/such/place", "is neither a file, a folder nor a hub id"),
        (
            "nobody/nothing",
            r"cannot load 'nobody/nothing' \(.*\); without network, download it ",
        ),
        ((("train", ("missing.csv",)),), "there is no file 'missing.csv'"),
        ((("train", ("pyproject.toml",)),), r"has an unsupported extension; allowed: \.csv, "),
    ],
)
def test_missing_files_and_datasets_are_errors(path: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_splits(DataSource(path))


def test_missing_and_empty_splits_are_errors(write: Write, tmp_path: Path) -> None:
    file = str(write("rows.jsonl", tweets(10)))
    with pytest.raises(InputError, match=r"has no test split; set test_split to its name, or test_fraction"):
        load_splits(DataSource(file, dev_fraction=0.1))
    with pytest.raises(InputError, match="has no dev split; set dev_split"):
        load_splits(DataSource(file, test_fraction=0.1))
    folder(write, "data/{}.parquet")
    with pytest.raises(InputError, match=r"test_split: .* has no split 'tset' .did you mean 'test'.*; splits: test"):
        load_splits(DataSource(str(tmp_path / "data"), names=(None, None, "tset")))
    (tmp_path / "data/test.parquet").unlink()
    write("data/test.json", [])
    with pytest.raises(InputError, match=r"data/test\.json: "):
        load_splits(DataSource(str(tmp_path / "data")))


def test_an_unparsable_file_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "x"\n{"text": }\n')
    with pytest.raises(
        InputError, match=r"bad\.jsonl, line 1: is not valid JSON: Expecting ',' delimiter at column 13"
    ):
        load_splits(DataSource(str(tmp_path / "bad.jsonl")))


def test_published_sizes_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: Any, **options: Any) -> DatasetDict:
        return DatasetDict({name: Dataset.from_list(tweets(6)) for name in SPLITS})

    monkeypatch.setattr(datasets, "load_dataset", load)
    right = tuple((name, 6) for name in SPLITS)
    assert sizes(DataSource("owner/name", sizes=right)) == {"train": 6, "dev": 6, "test": 6}
    with pytest.raises(InputError, match=r"'owner/name' has 6 rows in split 'test', but 1,421 were published"):
        load_splits(DataSource("owner/name", sizes=(*right[:2], ("test", 1421))))
    with pytest.raises(InputError, match="has no split 'extra', which was published with 3 rows"):
        load_splits(DataSource("owner/name", sizes=(("extra", 3),)))


def test_csv_files_of_the_hub_are_read_without_type_inference(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        (folder / f"{split}.csv").write_text("text,label\n007,01\n2.50,true\n")
    hub_builder = datasets.load_dataset_builder(str(folder))
    commit = "a" * 40
    hub_builder.config.data_files = {
        str(split): [f"hf://datasets/owner/name@{commit}/{Path(str(file)).name}" for file in files]
        for split, files in hub_builder.config.data_files.items()
    }
    fetched: list[tuple[str, str, str]] = []

    def fetch(repository: str, file: str, *, repo_type: str, revision: str) -> str:
        fetched.append((repository, repo_type, revision))
        return str(folder / file)

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda **place: hub_builder)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    rows = load_splits(DataSource("owner/name", revision=commit)).splits["test"]
    assert list(rows) == [{"text": "007", "label": "01"}, {"text": "2.50", "label": "true"}]
    assert set(fetched) == {("owner/name", "dataset", commit)}


def builder(path: Path, train: int | None, *others: str) -> Any:
    """The builder of a local data set, with a published number of training rows if given."""
    local_builder = datasets.load_dataset_builder(str(path))
    splits = None if train is None else dict.fromkeys(("train", *others), datasets.SplitInfo("x", num_examples=train))
    local_builder.info.splits = splits
    return local_builder


def test_limit_train_rows_gives_a_sample_and_the_total_number(write: Write, tmp_path: Path) -> None:
    write("data/train.parquet", tweets(12))
    source = DataSource(str(tmp_path / "data"))
    sample, number = limit_train_rows(source, builder(tmp_path / "data", 700, "validation", "test"), 5)
    rows = load_splits(sample)
    assert number == 700
    assert {split: len(part) for split, part in rows.splits.items()} == {"train": 5}
    assert rows.splits["train"]["text"][:] == [row["text"] for row in tweets(5)]


@pytest.mark.parametrize(
    ("options", "splits", "number"),
    [
        ({"dev_fraction": 0.1}, ("test",), 630),
        ({"dev_fraction": 0.1}, ("test", "validation"), 700),
        ({"dev_fraction": 0.1, "test_fraction": 0.2}, (), 490),
        ({"max_rows": 60}, ("test", "validation"), 60),
    ],
)
def test_held_out_shares_reduce_the_number_of_training_rows(
    options: dict[str, Any], splits: tuple[str, ...], number: int, write: Write, tmp_path: Path
) -> None:
    write("data/train.parquet", tweets(12))
    source = DataSource(str(tmp_path / "data"), **options)
    assert limit_train_rows(source, builder(tmp_path / "data", 700, *splits), 5)[1] == number


def test_an_unpublished_number_of_rows_is_unknown(write: Write, tmp_path: Path) -> None:
    write("data/train.parquet", tweets(12))
    local_builder = builder(tmp_path / "data", None)
    assert limit_train_rows(DataSource(str(tmp_path / "data")), local_builder, 5)[1] is None
    assert limit_train_rows(DataSource(str(tmp_path / "data"), sizes=(("train", 80),)), local_builder, 5)[1] == 80


def test_only_undownloaded_hub_data_is_sampled(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("data/train.parquet", tweets(12))
    assert undownloaded_builder(DataSource(str(tmp_path / "data"))) is None
    assert undownloaded_builder(DataSource((("train", ("a.csv",)),))) is None
    local_builder, cache = builder(tmp_path / "data", 700), tmp_path / "cache"
    local_builder._cache_dir = str(cache)
    requests: list[dict[str, Any]] = []
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda **place: requests.append(place) or local_builder)
    assert undownloaded_builder(DataSource("someone/tweets", config="emotion", revision="v1")) is local_builder
    assert requests == [{"path": "someone/tweets", "name": "emotion", "revision": "v1"}]
    cache.mkdir()
    assert undownloaded_builder(DataSource("someone/tweets")) is None
    with pytest.raises(InputError, match="neither a file, a folder nor a hub id"):
        undownloaded_builder(DataSource("tweets"))


TEXTS = st.lists(st.sampled_from(["a", "A ", "b", "c", "d e", "D  e", "f"]), min_size=3, max_size=40)


@given(texts=TEXTS, groups=st.integers(1, 8), seed=st.integers(0, 3), share=st.sampled_from([0.1, 0.3, 0.5]))
@settings(max_examples=40)
def test_rows_of_one_group_are_held_out_together(texts: list[str], groups: int, seed: int, share: float) -> None:
    indices = range(len(texts))
    columns = {"text": texts, "label": ["xy"[i % 2] for i in indices], "g": [str(i // groups) for i in indices]}
    rows = Dataset.from_dict(columns)
    task = TextClassification(path="x.csv", group_column="g", dev_fraction=share, test_fraction=share)
    ids = RowGroups(task).find(rows)
    for i, j in combinations(indices, 2):
        if normalize(texts[i]) == normalize(texts[j]) or i // groups == j // groups:
            assert ids[i] == ids[j]
    number = max(1, round(share * len(texts)))
    rest, held = hold_out(rows, number, seed, "label", ids)
    sides = [{ids[i] for i in each[ORIGIN]} for each in (rest, held)]
    assert not sides[0] & sides[1]
    assert sorted([*rest[ORIGIN], *held[ORIGIN]]) == [*range(len(texts))]
    assert len(held) > 0 or len({*ids}) == 1
    assert len(rest) > 0
    if len({*ids}) == len(texts):  # nothing is together
        assert len(held) == number
    again = hold_out(rows, number, seed, "label", ids)[1]
    assert again[ORIGIN] == held[ORIGIN]


def test_strata_keep_their_shares_in_groups(write: Write) -> None:
    rows = [{"text": f"text {i // 2}", "label": "a" if i % 10 < 8 else "b"} for i in range(400)]
    task = TextClassification(path=str(write("a.jsonl", rows)), dev_fraction=0.2, test_fraction=0.2)
    splits = task.load()
    assert {name: len(split) for name, split in splits.items()} == {"train": 240, "test": 80, "dev": 80}
    assert [Counter(splits[name]["label"])["b"] for name in ("test", "dev")] == [16, 16]
    assert task.held_out()["dev"] == {"rows": 80, "groups": 40, "together": "the same source"}
    row = splits["dev"][3]
    assert task.describe_row("dev", 3).endswith(f"row {row[ORIGIN] + 1}")


def test_rows_that_are_all_one_group_cannot_be_held_out(write: Write) -> None:
    rows = [{"text": f"text {i}", "label": "ab"[i % 2], "shop": "one"} for i in range(20)]
    options = {"path": str(write("a.jsonl", rows)), "dev_fraction": 0.2, "test_fraction": 0.2, "group_column": "shop"}
    with pytest.raises(InputError, match="no rows can be held out for test, because the training rows are one group"):
        TextClassification(**options).load()


def test_questions_about_one_context_are_held_out_together(write: Write) -> None:
    rows = [
        {"question": f"which {i}?", "context": f"the {i // 5} is", "answers": [{"text": "the", "answer_start": 0}]}
        for i in range(100)
    ]
    task = SpanQa(path=str(write("a.jsonl", rows)), dev_fraction=0.1, test_fraction=0.1)
    splits = task.load()
    assert {name: len({*split["context"]}) for name, split in splits.items()} == {"train": 16, "test": 2, "dev": 2}
    assert len({context for split in splits.values() for context in {*split["context"]}}) == 20
    assert task.held_out()["test"]["together"] == "the same source or the same 'context'"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("on", r"config: '.*data' has no subset 'on' \(did you mean 'one'\?\); subsets: one, two"),
        (None, "config: '.*data' has several subsets; set config to one of them; subsets: one, two"),
    ],
)
def test_a_missing_subset_names_those_that_exist(config: str | None, words: str, write: Write, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(f"data/{name}/rows.jsonl", tweets(9))
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*.jsonl\n" for name in ("one", "two"))
    (tmp_path / "data" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(DataError, match=words):
        load_splits(DataSource(str(tmp_path / "data"), config=config, dev_fraction=0.2, test_fraction=0.2))


def test_subfolders_are_subsets(write: Write, tmp_path: Path) -> None:
    for name in ("one", "two"):
        for split in SPLITS:
            write(f"data/{name}/{split}.jsonl", tweets(9))
    with pytest.raises(DataError, match=r"config: '.*data' has no subset 'three'; subsets: one, two"):
        load_splits(DataSource(str(tmp_path / "data"), config="three"))
