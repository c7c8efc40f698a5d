"""The built-in data: balance, duplicates, splits, and definitions without their answer."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

import pytest
from datasets import DatasetDict

from peftkit.tasks.wordnet import DATA_DIR, WordNetDistractors, WordNetGlosses, WordNetMcq, WordNetTask, WordNetTopic

TASKS: dict[str, WordNetTask] = {
    "topic": WordNetTopic(),
    "far": WordNetMcq(),
    "sisters": WordNetMcq(distractors="sisters"),
    "distractors": WordNetDistractors(),
}
SIZES = {"topic": (10200, 500, 1000), "far": (10500, 500, 1000), "sisters": (10500, 500, 1000)}
SIZES["distractors"] = SIZES["far"]


@pytest.fixture(scope="module")
def data() -> dict[str, DatasetDict]:
    return {name: task.load() for name, task in TASKS.items()}


def words(text: str) -> set[str]:
    singular = set(re.findall("[a-z]+", text.lower()))
    return singular | {w[:-1] for w in singular if w.endswith("s")}


@pytest.mark.parametrize("name", TASKS)
def test_sizes_of_splits(data: dict[str, DatasetDict], name: str) -> None:
    assert tuple(len(data[name][s]) for s in ("train", "dev", "test")) == SIZES[name]


def test_a_synset_is_in_one_split_of_all_tasks(data: dict[str, DatasetDict]) -> None:
    ids = {s: {i for splits in data.values() for i in splits[s]["synset"]} for s in ("train", "dev", "test")}
    assert all(not ids[a] & ids[b] for a, b in combinations(ids, 2))


@pytest.mark.parametrize("name", TASKS)
def test_there_are_no_duplicate_rows(data: dict[str, DatasetDict], name: str) -> None:
    rows = [row for split in data[name].values() for row in split]
    assert len({row["synset"] for row in rows}) == len(rows)
    assert len({row["gloss"].lower() for row in rows}) == len(rows)


def test_topics_are_balanced_and_not_in_the_definition(data: dict[str, DatasetDict]) -> None:
    labels = TASKS["topic"].labels
    assert len(labels) == 10
    for split in data["topic"].values():
        counts = Counter(split["category"])
        assert set(counts) == set(labels)
        assert len(set(counts.values())) == 1
        assert not [row for row in split if row["category"] in words(row["gloss"])]


@pytest.mark.parametrize("name", ["far", "sisters"])
def test_each_of_five_choices_is_the_answer_once_and_not_in_the_definition(
    data: dict[str, DatasetDict], name: str
) -> None:
    for split in data[name].values():
        groups = Counter(tuple(sorted(row["choices"])) for row in split)
        answers = Counter((tuple(sorted(row["choices"])), row["answer"]) for row in split)
        assert set(groups.values()) == {5}
        assert set(answers.values()) == {1}
        assert all(len(set(row["choices"])) == 5 and row["answer"] in row["choices"] for row in split)
        assert not [row for row in split if row["answer"] in words(row["gloss"])]
        places = Counter(row["choices"].index(row["answer"]) for row in split)
        assert max(places.values()) < 1.35 * min(places.values())


def test_there_are_three_distractors_other_than_the_word(data: dict[str, DatasetDict]) -> None:
    for split in data["distractors"].values():
        assert all(len(set(row["distractors"])) == 3 and row["word"] not in row["distractors"] for row in split)
        assert not [row for row in split if row["word"] in words(row["gloss"])]


@pytest.mark.parametrize("name", TASKS)
def test_every_row_is_a_valid_example(data: dict[str, DatasetDict], name: str) -> None:
    task = TASKS[name]
    for row in data[name]["dev"]:
        example = task.to_example(row)
        assert row["gloss"] in example.source
        assert example.target in (example.candidates or (example.target,))
        assert example.target not in example.source.removeprefix("topic: ").split()


def test_the_licence_is_next_to_the_data() -> None:
    assert "Princeton University" in (DATA_DIR / "LICENSE").read_text()


def test_glosses_of_dev_and_test_are_in_no_training_split(data: dict[str, DatasetDict]) -> None:
    """Nor do their definitions occur there, so that no run of a WordNet task trains on them."""
    splits = WordNetGlosses().load()
    trained = [row for task in data.values() for row in task["train"]]
    synsets, texts = {row["synset"] for row in trained}, {row["gloss"] for row in trained}
    for split in ("dev", "test"):
        assert not {*splits[split]["synset"]} & synsets
        assert not {*splits[split]["gloss"]} & texts
        assert len({*splits[split]["synset"]}) == len(splits[split])
    example = WordNetGlosses().to_example({"word": "leaf", "gloss": "a part of a plant"})
    assert (example.source, example.target) == ("define: leaf a part of a plant", "a part of a plant")
