"""The hub's data sets, loaded from local folders in the hub's layout."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, get_args

import datasets
import pytest
from datasets import Dataset, DatasetDict

from peftkit import Example
from peftkit.errors import InputError
from peftkit.tasks.hub import TWEET_LABELS, AgNews, CommonsenseQa, Race, RaceDistractors, Subset, TweetEval
from tests.tasks.conftest import Write, examinations, questions, tweets


@pytest.mark.parametrize("subset", get_args(Subset))
def test_every_subset_of_tweet_eval(subset: Any, write: Write, tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        write(f"hub/{subset}/{name}-00000-of-00001.parquet", tweets(40, len(TWEET_LABELS[subset])))
    task = TweetEval(subset=subset, path=str(tmp_path / "hub"))
    assert len(task.labels) == len(set(task.labels)) == len(TWEET_LABELS[subset]) == len({*TWEET_LABELS[subset]})
    row = task.load()["dev"][1]
    example = task.to_example(row)
    assert example.source == f"tweet {subset.replace('_', ' ')}: tweet 1 #tag @user é"
    assert example.target == task.labels[1]
    assert TweetEval.published_sizes[subset].keys() == {"train", "validation", "test"}


def test_tweet_eval_labels_are_words() -> None:
    assert TweetEval().labels == ("anger", "joy", "optimism", "sadness")
    assert TweetEval(subset="hate").labels == ("not hateful", "hateful")
    assert len(TweetEval(subset="emoji").labels) == 20
    assert TweetEval(subset="hate", verbalisers={"hate": "yes", "non-hate": "no"}).labels == ("no", "yes")


def test_ag_news_holds_out_dev_rows_from_train(write: Write, tmp_path: Path) -> None:
    write("hub/data/train-00000-of-00001.parquet", tweets(400))
    write("hub/data/test-00000-of-00001.parquet", tweets(8))
    task = AgNews(path=str(tmp_path / "hub"))
    splits = task.load()
    assert {s: len(r) for s, r in splits.items()} == {"train": 380, "dev": 20, "test": 8}
    assert Counter(splits["dev"]["label"]) == dict.fromkeys(range(4), 5)
    assert not {*splits["train"]["text"]} & {*splits["dev"]["text"]}
    example = task.to_example(splits["test"][3])
    assert (example.source, example.target) == ("topic: tweet 3 #tag @user é", "Sci/Tech")


def test_commonsense_qa_is_tested_on_the_validation_split(write: Write, tmp_path: Path) -> None:
    write("hub/train.parquet", questions(200))
    write("hub/validation.parquet", questions(10))
    write("hub/test.parquet", [{**row, "answerKey": ""} for row in questions(10)])
    task = CommonsenseQa(path=str(tmp_path / "hub"))
    splits = task.load()
    assert {s: len(r) for s, r in splits.items()} == {"train": 190, "test": 10, "dev": 10}
    again = CommonsenseQa(path=str(tmp_path / "hub")).load()
    assert list(again["dev"]["question"]) == list(splits["dev"]["question"])
    assert task.to_example(splits["test"][1]) == Example(
        "question: what is 1? choices: A - thing 1 a B - thing 1 b C - thing 1 c D - thing 1 d E - thing 1 e",
        "thing 1 b",
        tuple(f"thing 1 {letter}" for letter in "abcde"),
        truncatable_span=(0, 0),
    )


def test_splits_may_be_files(write: Write) -> None:
    files: Any = {split: str(write(f"{split}.jsonl", questions(6))) for split in ("train", "dev", "test")}
    assert {s: len(r) for s, r in CommonsenseQa(path=files).load().items()} == {"train": 6, "dev": 6, "test": 6}


def test_duplicate_choices_of_published_data_count_as_one() -> None:
    row = {"question": "q", "choices": {"label": ["A", "B", "C"], "text": ["x", "y", "y"]}, "answerKey": "C"}
    example = CommonsenseQa().to_example(row)
    assert (example.target, example.candidates) == ("y", ("x", "y"))
    assert example.source.endswith("A - x B - y C - y")


@pytest.fixture
def race(write: Write, tmp_path: Path) -> str:
    for subset, number in (("all", 12), ("high", 8), ("middle", 4)):
        for name in ("train", "validation", "test"):
            write(f"hub/{subset}/{name}-00000-of-00001.parquet", examinations(number))
    return str(tmp_path / "hub")


@pytest.mark.parametrize(("subset", "number"), [("all", 12), ("high", 8), ("middle", 4)])
def test_race(subset: Any, number: int, race: str) -> None:
    task = Race(subset=subset, path=race)
    rows = task.load()["test"]
    assert len(rows) == number
    example = task.to_example(rows[1])
    article = rows[1]["article"]
    assert example.source == (
        "question: What is in article 1? choices: A - a story 1 B - a tale; long 1 C - nothing 1 D - a lie 1 "
        f"context: {article}"
    )
    assert example.target == "a tale; long 1"
    assert example.truncatable_span is not None
    assert example.source[slice(*example.truncatable_span)] == article


def test_race_distractors(race: str) -> None:
    task = RaceDistractors(path=race)
    example = task.to_example(task.load()["train"][0])
    assert example.source.startswith("answer: a story 0 question: What is in article 0? context: Article 0 has")
    assert example.target == "a tale, long 0; nothing 0; a lie 0"
    assert example.extra == {"answer": "a story 0"}
    assert not example.candidates


@pytest.mark.parametrize(
    ("task", "config", "sizes"),
    [
        (TweetEval(), "emotion", {"train": 3257, "validation": 374, "test": 1421}),
        (TweetEval(subset="hate"), "hate", {"train": 9000, "validation": 1000, "test": 2970}),
        (AgNews(), None, {"train": 120000, "test": 7600}),
        (CommonsenseQa(), None, {"train": 9741, "validation": 1221, "test": 1140}),
        (Race(), "all", {"train": 87866, "validation": 4887, "test": 4934}),
        (Race(subset="middle"), "middle", {"train": 25421, "validation": 1436, "test": 1436}),
        (RaceDistractors(subset="high"), "high", {"train": 62445, "validation": 3451, "test": 3498}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_number_of_hub_rows_must_equal_the_published_one(
    task: Any, config: str | None, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Any] = []

    def load(path: str, name: str | None, **options: Any) -> DatasetDict:
        requests.append((path, name))
        return DatasetDict({split: Dataset.from_dict({"x": range(n + short)}) for split, n in sizes.items()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    from peftkit.tasks.sources import split_loading

    short = 0
    split_loading._load_splits.cache_clear()
    assert split_loading.load_splits(task._data_source()).splits["train"]
    short = -1
    split_loading._load_splits.cache_clear()
    with pytest.raises(InputError, match=r"rows in split 'train', but .* were published; clear the cache"):
        split_loading.load_splits(task._data_source())
    split_loading._load_splits.cache_clear()
    assert requests[0] == (type(task).hub_id, config)
