"""Examples of evaluation sets have the labels that the model is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from peftkit import Example, Task
from peftkit.data.evaluation_sets import load_set_examples
from peftkit.errors import InputError, RunError
from peftkit.recipe.evaluation_tasks import EvaluationTask


class Labelled(Task):
    """Rows with the labels of a list; ranked if they are candidates."""

    name: str = "labelled"
    names: tuple[str, ...] = ("a", "b", "c")
    rows: tuple[str, ...] = ("a", "c")
    ranked: bool = True
    numbers: tuple[str, ...] = ()

    kind = "classification"
    metrics = ("accuracy",)
    selection_metric = "accuracy"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.names

    @property
    def targets(self) -> tuple[str, ...]:
        return self.numbers

    def load(self) -> DatasetDict:
        return DatasetDict({"test": Dataset.from_dict({"label": list(self.rows)})})

    def to_example(self, row: Mapping[str, Any]) -> Example:
        return Example("x", row["label"], self.names if self.ranked else ())


def load(**options: Any) -> list[Example]:
    return load_set_examples(EvaluationTask("hard", Labelled(**options), "test", None, at_end_only=False), Labelled())


def test_candidates_are_the_trained_labels_in_their_order() -> None:
    examples = load(names=("c", "a"))
    assert [(example.target, example.candidates) for example in examples] == [
        ("a", ("a", "b", "c")),
        ("c", ("a", "b", "c")),
    ]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"names": ("a", "zz"), "rows": ("a", "zz")},
            InputError,
            "the evaluation set 'hard': .*row 2: the model is not trained on the label 'zz'; labels: a, b, c",
        ),
        (
            {"names": ("a", "d"), "rows": ("a", "d"), "ranked": False},
            InputError,
            r"'hard': needs the labels that the model is trained on, in their order \(a, b, c\); 'd' is none of them",
        ),
        ({"names": ("c", "a"), "ranked": False}, InputError, "the set has c, a"),
        ({"rows": ()}, RunError, "the evaluation set 'hard': has no rows"),
        ({"numbers": ("x",)}, InputError, "'hard': predicts x, but the model predicts"),
    ],
)
def test_other_labels_and_targets_are_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load(**options)


def test_an_unranked_set_with_the_same_labels_is_unchanged() -> None:
    assert [example.candidates for example in load(ranked=False)] == [(), ()]
