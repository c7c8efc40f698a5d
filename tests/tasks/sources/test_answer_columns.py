"""What columns of any values are read as."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.errors import InputError
from peftkit.plugins import load_registry
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.sources.answer_columns import ROW_ID, answer_columns, find_delimiter, is_named
from peftkit.tasks.sources.data_sample import Column, DataSample

NAMES = (
    "text",
    "label",
    "id",
    "score",
    "stars",
    "sentence1",
    "sentence2",
    "tags",
    "target",
    "answer",
    "pos",
    "neg",
    "x",
)
SCALARS = st.one_of(
    st.integers(), st.floats(allow_nan=False), st.booleans(), st.text(max_size=8), st.sampled_from(["a|b", "b", "1,5"])
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))


@st.composite
def samples(draw: st.DrawFn) -> DataSample:
    number = draw(st.integers(1, 12))
    columns = {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5)):
        pool = draw(
            st.lists(draw(st.sampled_from([VALUES, SCALARS, st.text(), st.integers()])), min_size=1, max_size=4)
        )
        values = [draw(st.sampled_from(pool)) for _ in range(number)]
        columns[name] = Column(name, values, number)
    return DataSample(columns, frozenset({"train"}), number)


@given(samples())
def test_any_columns_are_read_or_refused_with_a_reason(sample: DataSample) -> None:
    tasks: list[Any] = [entry.component for entry in load_registry().all("task").values()]
    for task in tasks:
        if not issubclass(task, DatasetTask) or task.hub_id:
            continue
        try:
            matches = [*task.recognize_columns(sample)]
        except InputError:
            continue
        for match in matches:
            assert 0 <= match.score <= 1
            task(path="rows.csv", **match.options)  # the options are valid
            named = [value for option, value in match.options.items() if option.endswith("_column")]
            assert {*named} <= {*sample.columns} | {value for value in named if "." in value}


@pytest.mark.parametrize("distinct", [2, 3, 11, 31, 100, 250, 400])
@pytest.mark.parametrize("name", ["label", "x", "stars"])
@pytest.mark.parametrize("first", [0, 7])
def test_scores_are_from_0_to_1_for_any_number_of_labels(name: str, distinct: int, first: int) -> None:
    column = Column(name, [first + 3 * (i % distinct) for i in range(2000)], 2000)
    for answer in answer_columns(DataSample({name: column}, frozenset(), 2000)):
        assert 0 <= answer.as_labels <= 1
        assert 0 <= answer.as_numbers <= 1


@given(samples())
def test_answers_are_never_unsure_of_what_they_cannot_be(sample: DataSample) -> None:
    for answer in answer_columns(sample):
        assert answer.column.distinct > 1
        if answer.as_numbers:
            assert all(map(math.isfinite, answer.column.numbers))
            assert answer.describe_numbers()


@pytest.mark.parametrize(
    ("cells", "delimiter"),
    [
        (["a|b", "b", "a", "c|a"] * 5, "|"),
        (["a, b", "b", "a", "c, a"] * 5, ","),
        (["a;b", "", "a", "c;a"] * 5, ";"),
        (["Ann, Lee", "Bob, Ray"] * 10, None),
        (["1,5", "2,5", "3,5"] * 10, None),
        (["a", "b"] * 10, None),
        (["a,a", "b,a", "b"] * 10, None),
        ([f"a long text, with a comma {i}" for i in range(20)], None),
    ],
)
def test_delimiters_are_those_of_labels_that_are_combined_freely(cells: list[str], delimiter: str | None) -> None:
    assert find_delimiter(Column("x", cells, len(cells))) == delimiter


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("id", "qid1", "user_id", "docId", "Unnamed: 0", "row number", "rowNumber", "idx")),
        *((name, False) for name in ("valid", "is_paid", "paid", "label", "hybrid", "rowing")),
    ],
)
def test_names_that_identify_rows(name: str, expected: bool) -> None:
    assert bool(ROW_ID.fullmatch(name)) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Label", True), ("sentiment_label", True), ("labelText", True), ("labelled", False), ("my label is x", False)],
)
def test_names_of_several_words(name: str, expected: bool) -> None:
    assert is_named(Column(name, [], 0), ("label",)) is expected
