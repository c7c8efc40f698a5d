"""``to_prompt`` of unlabeled rows, and how ``check_task`` checks it."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from peftkit import Example, MissingFieldsError, RowError, Task
from peftkit.testing import check_task

LABELS = ("no", "yes")


class Plain(Task):
    """Is it big?"""

    name: Literal["plain"] = "plain"
    kind = "classification"
    metrics = ("accuracy",)
    selection_metric = "accuracy"

    @property
    def labels(self) -> tuple[str, ...]:
        return LABELS

    def load(self) -> Any:
        from datasets import Dataset, DatasetDict

        rows = Dataset.from_list([{"thing": f"thing {i}", "label": LABELS[i % 2], "number": i % 2} for i in range(4)])
        return DatasetDict(dict.fromkeys(("train", "dev", "test"), rows))

    def to_example(self, row: Any) -> Example:
        return Example(f"is it big: {row['thing']}", row["label"], LABELS, extra={"label": row["label"]})


class LooksUp(Plain):
    """The answer is a number."""

    def to_example(self, row: Any) -> Example:
        return Example(f"is it big: {row['thing']}", LABELS[row["number"]], LABELS)


class LooksUpAndSays(LooksUp):
    """Overrides to_prompt correctly."""

    def to_prompt(self, row: Any) -> Example:
        if "thing" not in row:
            raise MissingFieldsError(["thing"])
        return Example(f"is it big: {row['thing']}", LABELS[0], LABELS)


class Other(LooksUpAndSays):
    """Uses another prompt for prediction than for training."""

    def to_prompt(self, row: Any) -> Example:
        super().to_prompt(row)
        return Example(row.get("thing", ""), LABELS[0], LABELS)


class Knows(Plain):
    """Reads the answer in to_prompt."""

    def to_prompt(self, row: Any) -> Example:
        super().to_prompt(row)
        return self.to_example({"label": "yes", **row})


class Fails(Plain):
    """Raises a KeyError for a missing field."""

    def to_prompt(self, row: Any) -> Example:
        return Example(f"is it big: {row['thing']}", LABELS[0], LABELS)


@pytest.mark.parametrize("task", [Plain(), LooksUpAndSays()], ids=lambda t: type(t).__name__)
def test_to_prompt_needs_the_fields_of_the_prompt_only(task: Task) -> None:
    expected = Example("is it big: a tree", "no", LABELS)
    assert task.to_prompt({"thing": "a tree"}) == expected
    assert task.to_prompt({"thing": "a tree", "label": "yes", "number": 1, "more": 2}) == expected
    for row in ({}, {"label": "yes"}):
        with pytest.raises(MissingFieldsError, match="thing: missing") as caught:
            task.to_prompt(row)
        assert caught.value.fields == ("thing",)
    check_task(task)


def test_all_missing_fields_are_named() -> None:
    class Two(Plain):
        """Has an optional field."""

        def to_example(self, row: Any) -> Example:
            where = row.get("where", "")
            return Example(f"{row['thing']} or {row['other']}{where}", row["label"], (row["first"], row["second"]))

    with pytest.raises(MissingFieldsError) as caught:
        Two().to_prompt({})
    assert set(caught.value.fields) == {"thing", "other", "first", "second"}


def test_an_invalid_field_is_a_row_error() -> None:
    class Strict(Plain):
        """Rejects every row."""

        def to_example(self, row: Any) -> Example:
            raise RowError("thing", "is wrong")

    with pytest.raises(RowError, match="thing: is wrong"):
        Strict().to_prompt({"thing": 1})


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (LooksUp(), "a row without 'number' cannot be predicted: .*has to override to_prompt"),
        (Other(), "to_prompt returns the source 'thing 0', but to_example 'is it big: thing 0'"),
        (Knows(), "the target of to_prompt is not the first candidate"),
        (Fails(), "without 'thing', to_prompt does not raise MissingFieldsError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Task) else "",
)
def test_check_task_detects_prompts_that_differ_from_training(task: Task, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_task(task)
