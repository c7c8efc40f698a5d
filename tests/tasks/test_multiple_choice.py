"""Generic tasks on user data: columns, labels, choices, and errors in rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoTokenizer

from peftkit import Example, RowError
from peftkit.data.examples import to_examples
from peftkit.errors import InputError
from peftkit.recipe.model_names import model_path
from peftkit.tasks import DistractorGeneration, MultipleChoice, TextClassification, TextGeneration
from peftkit.tasks.dataset_task import DatasetTask
from tests.tasks.conftest import Rows, Write


def examples_of(task: Any, split: str = "train") -> list[Example]:
    """The examples of a split, as the runner builds them."""
    rows = task.load()[split]
    return to_examples(task, split, rows, range(len(rows)))


def all_splits(write: Write, rows: Rows, name: str = "rows.jsonl") -> dict[str, Any]:
    """The same rows as all three splits."""
    file = str(write(name, rows))
    return {"train": file, "dev": file, "test": file}


TEXTS = [{"text": f"text {i}", "label": ["bad", "good", "fine"][i % 3]} for i in range(6)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_text_labels_are_collected_from_the_training_rows(name: str, write: Write) -> None:
    task = TextClassification(
        path=all_splits(write, TEXTS, name), prompt="is {text} good?", verbalisers={"bad": "not good"}
    )
    assert task.labels == ("not good", "fine", "good")
    assert examples_of(task)[0] == Example(
        "is text 0 good?", "not good", ("not good", "fine", "good"), truncatable_span=(3, 9)
    )


def test_label_numbers_are_names_of_the_dataset(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}).cast_column(
        "label", ClassLabel(names=["no", "yes"])
    )
    DatasetDict(dict.fromkeys(("train", "dev", "test"), rows)).save_to_disk(tmp_path / "saved")
    task = TextClassification(path=str(tmp_path / "saved"))
    assert task.labels == ("no", "yes")
    assert [e.target for e in examples_of(task)] == ["yes", "no"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_label_numbers_are_indices_into_label_names(name: str, write: Write) -> None:
    path = all_splits(write, [{"text": "a", "label": 1}, {"text": "b", "label": 0}], name)
    assert [e.target for e in examples_of(TextClassification(path=path, label_names=("no", "yes")))] == ["yes", "no"]
    assert TextClassification(path=path).labels == ("0", "1")


def test_label_names_that_are_digits_are_matched_by_index(write: Write, tmp_path: Path) -> None:
    path = all_splits(write, [{"text": "a", "label": n} for n in (0, 1, 2)])
    assert [e.target for e in examples_of(TextClassification(path=path, label_names=("1", "2", "3")))] == [
        "1",
        "2",
        "3",
    ]
    assert [e.target for e in examples_of(TextClassification(path=path))] == ["0", "1", "2"]


@pytest.mark.parametrize("first", ["", '"quoted, so one field",neg\n'])
def test_a_row_with_too_many_cells_is_an_error(first: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(f"text,label\n{first}good, they say,pos\nbad,neg\n")
    task = TextClassification(path={"train": str(file), "dev": str(file), "test": str(file)})
    row = 2 if first else 1
    with pytest.raises(InputError, match=f"rows.csv, row {row}: has 3 cells, but the header has 2 .*contain ','"):
        task.load()


def test_without_a_context_nothing_is_truncatable(write: Write) -> None:
    [example] = examples_of(choices(write, [{"question": "q " * 99, "choices": ["x", "y"], "answer": "B"}]))
    assert example.truncatable_span == (0, 0)


def test_choices_may_be_numbers(write: Write) -> None:
    [example] = examples_of(choices(write, [{"question": "q", "choices": [3, 4], "answer": "B"}]))
    assert (example.target, example.candidates) == ("4", ("3", "4"))


def test_text_pairs_nested_columns_and_prompt_fields(write: Write) -> None:
    rows = [
        {"a": {"b": "one"}, "c": "two", "label": "x", "extra": 3},
        {"a": {"b": "1"}, "c": "2", "label": "y", "extra": 4},
    ]
    task = TextClassification(path=all_splits(write, rows), text_column="a.b", text_pair_column="c")
    example = examples_of(task)[0]
    assert (example.source, example.source_pair) == ("classify: sentence1: one sentence2: two", ("one", "two"))
    asked = task.model_copy(update={"prompt": "{text} or {text_pair}"})
    assert (examples_of(asked)[0].source, examples_of(asked)[0].source_pair) == ("one or two", None)
    task = TextClassification(path=all_splits(write, rows), text_column="a.b", prompt="{extra}: {text} {{}} {a.b}")
    assert examples_of(task)[0].source == "3: one {} one"


def choices(write: Write, rows: Rows, **options: Any) -> MultipleChoice:
    return MultipleChoice(path=all_splits(write, rows), **options)


def test_choices_in_a_list_in_columns_and_in_tables(write: Write) -> None:
    listed = choices(write, [{"question": "q", "choices": ["x", "y"], "answer": "B"}])
    expected = Example("question: q choices: A - x B - y", "y", ("x", "y"), truncatable_span=(0, 0))
    assert examples_of(listed) == [expected]
    rows = [{"question": "q", "1": "x", "2": "y", "answer": 1}]
    assert examples_of(choices(write, rows, choices_columns=("1", "2"), answer_is="index")) == [expected]
    rows = [{"question": "q", "c": {"text": ["x", "y"], "label": ["1", "2"]}, "answer": "2"}]
    nested = choices(write, rows, choices_column="c.text", choice_labels_column="c.label")
    assert examples_of(nested)[0].source == "question: q choices: 1 - x 2 - y"
    assert examples_of(nested)[0].target == "y"


def test_choices_with_an_answer_column_are_shuffled(write: Write) -> None:
    rows = [{"question": f"q{i}", "answer": "x", "1": "y", "2": "z"} for i in range(60)]
    task = choices(write, rows, choices_columns=("answer", "1", "2"), shuffle_choices=True)
    examples = examples_of(task)
    places = Counter(e.candidates.index(e.target) for e in examples)
    assert set(places) == {0, 1, 2}
    assert max(places.values()) < 35
    assert {e.target for e in examples} == {"x"}
    for each in examples:
        shown = " ".join(f"{label} - {text}" for label, text in zip("ABC", each.candidates, strict=True))
        assert each.source.endswith(f"choices: {shown}")
    assert examples_of(task) == examples
    labelled = [{"question": f"q{i}", "choices": ["y", "x"], "answer": "B"} for i in range(20)]
    by_label = examples_of(choices(write, labelled, shuffle_choices=True))
    assert {e.target for e in by_label} == {"x"}
    assert {e.candidates for e in by_label} == {("x", "y"), ("y", "x")}


def test_the_context_is_truncatable(write: Write) -> None:
    rows = [{"question": "q", "choices": ["x", "y"], "answer": "x", "story": "long"}]
    [example] = examples_of(choices(write, rows, context_column="story"))
    assert example.source == "question: q choices: A - x B - y context: long"
    assert example.truncatable_span is not None
    assert example.source[slice(*example.truncatable_span)] == "long"


def test_generation_targets_are_texts_or_lists_of_references(write: Write) -> None:
    task = TextGeneration(path=all_splits(write, [{"source": "s", "target": ["t", "u"]}]), prompt="say: {source}")
    assert examples_of(task) == [Example("say: s", "t", references=("t", "u"), truncatable_span=(5, 6))]
    task = TextGeneration(path=all_splits(write, [{"a": "s", "b": "t"}]), source_column="a", target_column="b")
    assert examples_of(task) == [Example("s", "t", truncatable_span=(0, 1))]


def test_distractors_are_the_wrong_choices(write: Write) -> None:
    rows = [{"question": "q", "choices": ["a", "b", "c"], "answer": "B"}]
    [example] = examples_of(DistractorGeneration(path=all_splits(write, rows), choices_column="choices"))
    assert (example.source, example.target) == ("answer: b question: q", "a; c")
    rows = [{"question": "q", "choices": ["a", "b", "c"], "answer": 3}]
    [example] = examples_of(
        DistractorGeneration(path=all_splits(write, rows), choices_column="choices", answer_is="number")
    )
    assert (example.extra["answer"], example.target) == ("c", "a; b")


def test_distractor_generation_examples(write: Write) -> None:
    rows = [{"question": "q", "answer": "right; yes", "distractors": ["a;b", "c "], "story": "long"}]
    task = DistractorGeneration(path=all_splits(write, rows), context_column="story")
    assert examples_of(task) == [
        Example(
            "answer: right; yes question: q context: long",
            "a,b; c",
            extra={"answer": "right, yes"},
            truncatable_span=(40, 44),
            group="long",
        )
    ]
    rows = [{"question": "q", "answer": "x", "d1": "a", "d2": "b"}]
    task = DistractorGeneration(
        path=all_splits(write, rows), distractors_columns=("d1", "d2"), prompt="{question}/{answer}"
    )
    assert examples_of(task) == [Example("q/x", "a; b", extra={"answer": "x"}, truncatable_span=(0, 0))]


@pytest.mark.parametrize(
    ("task", "row", "words"),
    [
        (TextClassification, {"text": "x", "label": "god"}, r"label: unknown label 'god' .did you mean 'good'"),
        (TextClassification, {"text": "x", "label": None}, r"label: is empty"),
        (TextClassification, {"text": None, "label": "good"}, r"text: is empty"),
        (
            MultipleChoice,
            {"question": "q", "choices": ["x", "y"], "answer": "z"},
            r"answer: the answer 'z' is not",
        ),
        (
            MultipleChoice,
            {"question": "q", "choices": ["x", "x "], "answer": "A"},
            r"choices: has the choice 'x'",
        ),
        (MultipleChoice, {"question": "q", "choices": ["x"], "answer": "A"}, r"choices: has 1 choices; at least 2"),
        (MultipleChoice, {"question": "q", "choices": ["x", "y"], "answer": None}, r"answer: is empty"),
        (TextGeneration, {"source": "s", "target": " "}, r"target: is empty"),
        (
            DistractorGeneration,
            {"question": "q", "answer": "x", "distractors": ["x"]},
            r"distractors: contains the answer",
        ),
        (DistractorGeneration, {"question": "q", "answer": "x", "distractors": []}, r"distractors: has no distractors"),
    ],
)
def test_invalid_rows_are_reported_with_file_row_and_field(
    task: Any, row: dict[str, Any], words: str, write: Write
) -> None:
    valid = {
        TextClassification: {"text": "x", "label": "good"},
        MultipleChoice: {"question": "q", "choices": ["x", "y"], "answer": "x"},
        TextGeneration: {"source": "s", "target": "t"},
        DistractorGeneration: {"question": "q", "answer": "x", "distractors": ["y"]},
    }[task]
    good, bad = write("good.jsonl", [valid, valid]), write("bad.jsonl", [valid, valid, row])
    options = {"label_names": ("bad", "good")} if task is TextClassification else {}
    task_of_files = task(path={"train": [str(good), str(bad)], "dev": str(good), "test": str(good)}, **options)
    with pytest.raises(InputError, match=rf"bad\.jsonl, row 3: {words}"):
        examples_of(task_of_files)


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        (
            TextClassification,
            {"text_column": "txt"},
            r"good\.jsonl: text_column: there is no column 'txt' .did you mean 'text'",
        ),
        (TextClassification, {"label_column": "y"}, r"there is no column 'y'; .*label, text"),
        (MultipleChoice, {}, r"question_column: there is no column 'question'; columns: label, text"),
        (TextGeneration, {"source_column": "text"}, r"target_column: there is no column 'target'"),
    ],
)
def test_a_missing_column_is_an_error_before_reading_rows(task: Any, options: Any, words: str, write: Write) -> None:
    with pytest.raises(InputError, match=words):
        task(path=all_splits(write, TEXTS, "good.jsonl"), **options).load()


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        (TextClassification, {"path": ""}, "must not be empty"),
        (TextClassification, {"path": {"trian": "x.csv"}}, "unknown split 'trian'; allowed: train, dev, test"),
        (TextClassification, {"path": {"dev": "x.csv"}}, "no files for split 'train'"),
        (TextClassification, {"path": {"train": []}}, "no files for split 'train'"),
        (TextClassification, {"path": "x", "prompt": "{text!r}"}, "is not a valid field"),
        (TextClassification, {"path": "x", "streaming": True}, "label_names: required with streaming"),
        (
            TextGeneration,
            {"path": "x", "streaming": True, "dev_fraction": 0.1},
            "dev_fraction and test_fraction are incompatible with streaming",
        ),
        (
            TextClassification,
            {"path": "x", "label_names": ["a", "b"], "verbalisers": {"c": "x"}},
            "verbalisers: unknown label 'c'",
        ),
        (
            TextClassification,
            {"path": "x", "label_names": ["a", "b"], "verbalisers": {"a": "b"}},
            "the labels 'a' and 'b' have the same text 'b'",
        ),
        (TextClassification, {}, "path"),
        (TextClassification, {"path": "x", "prompt": "no field"}, "prompt: has no fields"),
        (
            TextClassification,
            {"path": "x", "prompt": "{text} {label}"},
            r"prompt: the field \{label\} contains the answer",
        ),
        (MultipleChoice, {"path": "x", "answer_column": "a.b", "prompt": "{a.b}"}, "contains the answer"),
        (TextGeneration, {"path": "x", "prompt": "{source} {target}"}, "contains the answer"),
        (DistractorGeneration, {"path": "x", "prompt": "{distractors}"}, "contains the answer"),
        (DistractorGeneration, {"path": "x", "answer_is": "label"}, "answer_is: requires choices_column"),
        (
            DistractorGeneration,
            {"path": "x", "prompt": "{options}", "choices_column": "options"},
            "contains the answer",
        ),
        (
            MultipleChoice,
            {"path": "x", "choices_columns": ["answer", "1"]},
            "'answer' is the answer in every row, .* shuffle_choices = true",
        ),
    ],
)
def test_invalid_options_are_rejected(task: Any, options: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        task(**options)


FIELDS = [
    (TextClassification, "text", "label_column"),
    (TextClassification, "text_pair", "label_column"),
    (MultipleChoice, "question", "answer_column"),
    (MultipleChoice, "context", "answer_column"),
    (TextGeneration, "source", "target_column"),
    (DistractorGeneration, "question", "distractors_column"),
    (DistractorGeneration, "context", "distractors_column"),
]
"""Every field of a prompt that stands for a column, with the option of the column that has the answer."""


@pytest.mark.parametrize(("task", "field", "hidden"), FIELDS)
def test_a_field_must_not_show_the_column_of_the_answer(task: Any, field: str, hidden: str) -> None:
    words = rf"prompt: the field \{{{field}\}} is the column 'secret', which contains the answer"
    for column in ("secret", "secret.text"):
        with pytest.raises(ValidationError, match=words.replace("secret'", f"{column}'")):
            task(path="x", **{f"{field}_column": column, hidden: "secret"})


@pytest.mark.parametrize(("task", "field", "hidden"), FIELDS)
def test_the_column_of_the_answer_may_have_the_name_of_a_field(task: Any, field: str, hidden: str) -> None:
    created = task(path="x", **{f"{field}_column": "shown", hidden: field})
    assert "shown" in created.required_columns({})
    assert field not in created.required_columns({})


def test_the_column_of_the_answer_may_have_the_name_of_a_computed_field() -> None:
    MultipleChoice(path="x", choices_columns=("1", "2"), answer_column="choices")
    DistractorGeneration(path="x", answer_column="right", distractors_column="answer")


def test_streamed_rows_use_label_names(write: Write) -> None:
    task = TextClassification(path=all_splits(write, TEXTS), streaming=True, label_names=("bad", "good", "fine"))
    assert task.is_streaming
    rows: Any = task.load()["train"]
    assert [task.to_example(row).target for row in rows] == [row["label"] for row in TEXTS]


TOKENIZER = AutoTokenizer.from_pretrained(model_path("pocket-t5"))
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(),
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs", "Cc", "Zs"]), max_size=4),
    st.just("x" * 1_000_000),
    st.lists(st.text(max_size=3), max_size=4),
    st.just({"text": ["a", "b"]}),
)


@pytest.mark.parametrize(
    "task",
    [
        TextClassification(path="x", label_names=("a", "b")),
        TextClassification(path="x", label_names=("a", "b"), text_column="text.text"),
        MultipleChoice(path="x", context_column="text"),
        MultipleChoice(path="x", shuffle_choices=True, answer_is="index"),
        TextGeneration(path="x", source_column="text", target_column="answer"),
        DistractorGeneration(path="x", distractors_column="choices"),
        DistractorGeneration(path="x", choices_column="choices"),
    ],
    ids=lambda task: task.name,
)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("text", "label", "question", "choices", "answer"), ANYTHING)))
@settings(max_examples=300, deadline=None, database=None)
def test_any_row_is_an_example_or_an_error_with_its_field(task: DatasetTask, row: dict[str, Any]) -> None:
    try:
        example = task.to_example(row)
    except RowError:
        return
    assert isinstance(example.source, str)
    assert isinstance(example.target, str)
    assert not example.candidates or example.target in example.candidates
    for text in (example.source, example.target, *example.candidates):
        assert TOKENIZER(text[:1000])["input_ids"]
