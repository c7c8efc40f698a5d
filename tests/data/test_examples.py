"""Rows become examples, and errors name the row."""

from __future__ import annotations

from typing import Any

import pytest

from peftkit import Example, RowError
from peftkit.answer_texts.text_normalization import text_hash
from peftkit.data.examples import describe_row, to_examples
from peftkit.errors import InputError, RunError
from tests.tiny_runs import Colours


class Absent(Colours):
    """A task that cannot determine its labels."""

    def to_example(self, row: Any) -> Example:
        raise InputError("there is no column 'colour'")


def test_an_input_error_of_a_task_is_raised_unchanged() -> None:
    with pytest.raises(InputError, match=r"^there is no column 'colour'$"):
        to_examples(Absent(), "dev", [{"thing": "sky", "colour": "blue"}], [0])


class Wrong(Colours):
    """Rejects moss and fails on stones."""

    def to_example(self, row: Any) -> Example:
        if row["thing"] == "moss":
            raise RowError("thing", "is moss")
        if row["thing"] == "stone":
            raise KeyError("stone")
        return super().to_example(row)

    def describe_row(self, split: str, index: int) -> str:
        return f"{split}.csv, row {index + 1}"


def test_an_invalid_row_is_reported_with_its_location_and_field() -> None:
    with pytest.raises(InputError, match=r"^dev\.csv, row 8: thing: is moss$"):
        to_examples(Wrong(), "dev", [{"thing": "sky", "colour": "blue"}, {"thing": "moss", "colour": "green"}], [3, 7])


def test_a_failing_task_is_reported_with_the_row() -> None:
    with pytest.raises(RunError, match=r"^dev\.csv, row 1: the task raised KeyError: 'stone'$"):
        to_examples(Wrong(), "dev", [{"thing": "stone", "colour": "grey"}], [0])


def test_a_target_that_is_not_a_choice_is_an_error() -> None:
    with pytest.raises(InputError, match=r"row 1: target: 'grey' is not one of the choices \['red', 'green', 'blue'\]"):
        to_examples(Colours(), "train", [{"thing": "stone", "colour": "grey"}], [0])


def test_a_row_without_a_number_is_described_by_its_content() -> None:
    assert describe_row(Wrong(), "dev", 7, {"thing": "sky"}) == "dev.csv, row 8"
    assert describe_row(Wrong(), "dev", -1, {"thing": "sky"}) == "task 'colours', split 'dev', row {'thing': 'sky'}"
    long = describe_row(Wrong(), "dev", -1, {"thing": "sky" * 100})
    assert long.endswith("skysk…")
    assert len(long) == len("task 'colours', split 'dev', row ") + 200


def test_text_hash_ignores_case_and_whitespace() -> None:
    assert text_hash("The  Cat\n") == text_hash("the cat") != text_hash("the cats")
    assert -(2**63) <= text_hash("x") < 2**63
