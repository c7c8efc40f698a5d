"""Duplicates, empty texts, leakage and distributions are counted, with the rows that have them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from peftkit.analysis import data_quality
from peftkit.analysis.data_quality import SplitInputs, histogram, report_splits, split_inputs
from peftkit.components import Example

WORDS = "the quick brown fox jumps over the lazy dog and runs into the dark forest where nobody can find it"


def inputs(name: str, texts: Sequence[str], answers: Sequence[str] | None = None, group: str = "") -> SplitInputs:
    answers = answers or ["a"] * len(texts)
    examples = [Example(f"classify: {text}", answer, group=group) for text, answer in zip(texts, answers, strict=True)]
    return split_inputs(name, range(len(texts)), examples)


def report(**splits: SplitInputs) -> dict[str, dict[str, object]]:
    return report_splits(splits, lambda split, index: f"{split} {index}")


def test_duplicates_and_those_with_another_answer() -> None:
    split = inputs("train", ["x", "y", "X ", "z", "y", "y"], ["a", "b", "a", "a", "b", "a"])
    assert report(train=split)["train"]["duplicates"] == {
        "rows": 3,
        "with_other_answer": 1,
        "examined": 6,
        "first": [{"row": "train 5", "same_as": "train 1"}],
    }


def test_empty_inputs_and_answers() -> None:
    split = inputs("train", ["x", " ", "y"], ["a", "b", ""])
    assert report(train=split)["train"]["empty"] == {"inputs": 1, "answers": 1, "first": ["train 1", "train 2"]}


def test_rows_of_a_split_in_those_before_it() -> None:
    train = inputs("train", [WORDS, "something else", "x"], group="g")
    dev = inputs("dev", ["X", f"{WORDS} now", "of its own", "another text"], group="g")
    test = inputs("test", ["Of its own!", "another text"], group="h")
    reports = report(train=train, dev=dev, test=test)
    assert reports["train"]["leakage"] == []
    [in_train] = reports["dev"]["leakage"]
    assert (in_train["of"], in_train["exact"], in_train["near"], in_train["groups"]) == ("train", 1, 1, 4)
    assert in_train["first"] == [
        {"row": "dev 0", "equals": "train 2"},
        {"row": "dev 1", "nearly_equals": "train 0"},
    ]
    assert [(leak["of"], leak["exact"], leak["near"], leak["groups"]) for leak in reports["test"]["leakage"]] == [
        ("train", 0, 0, 0),
        ("dev", 1, 1, 0),
    ]


def test_words_of_the_prompt_make_no_texts_similar() -> None:
    prompt = f"{WORDS} {WORDS}: "
    train, dev = (inputs(name, [f"{prompt}{name} row"]) for name in ("train", "dev"))
    assert report(train=train, dev=dev)["dev"]["leakage"][0]["near"] == 0


def test_without_datasketch_the_exact_comparison_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_quality, "can_find_near_duplicates", lambda: False)
    [leak] = report(train=inputs("train", ["x", WORDS]), dev=inputs("dev", ["x", f"{WORDS} now"]))["dev"]["leakage"]
    assert (leak["exact"], leak["near"], leak["examined_near"]) == (1, None, None)


def test_pairs_and_words_are_inputs_without_their_prompt() -> None:
    examples = [Example("any", "a", source_pair=("x", "y")), Example("any", "O O", words=("x", "y"))]
    assert split_inputs("train", range(2), examples).texts == ["x\ny", "x y"]


@pytest.mark.parametrize(
    ("values", "bins"),
    [
        ([], []),
        ([3, 3, 3], [(3, 3, 3)]),
        ([1, 2, 2, 4], [(1, 1, 1), (2, 2, 2), (3, 3, 0), (4, 4, 1)]),
        ([0, 15, 16], [(0, 2, 1), (3, 5, 0), (6, 8, 0), (9, 11, 0), (12, 14, 0), (15, 17, 2)]),
    ],
)
def test_bins_of_whole_numbers(values: list[float], bins: list[tuple[float, float, int]]) -> None:
    assert [(each["from"], each["to"], each["rows"]) for each in histogram(values)] == bins


def test_bins_of_other_numbers_have_all_values() -> None:
    bins = histogram([0.5, 1.25, 7.0, 2.5])
    assert sum(each["rows"] for each in bins) == 4
    assert (bins[0]["from"], bins[-1]["to"], len(bins)) == (0.5, 7.0, 8)
