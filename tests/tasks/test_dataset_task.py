"""Errors of tasks on files, with file, row and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from peftkit.errors import InputError
from peftkit.tasks import MultipleChoice, TextClassification, TextGeneration
from peftkit.tasks.columns import INTERNAL
from peftkit.tasks.sources.split_loading import DataSource, load_splits
from tests.tasks.conftest import Write
from tests.tasks.table_files import examples, write_file


@pytest.mark.parametrize(
    ("task", "column"),
    [
        (TextGeneration(path="x", target_column="kind"), "kind"),
        (TextGeneration(path="x", source_column="kind"), "kind"),
        (TextClassification(path="x", prompt="{kind}: {text}"), "kind"),
        (TextClassification(path="x", prompt="{nested.kind}: {text}"), "nested.kind"),
        (MultipleChoice(path="x", choices_columns=("source", "kind"), answer_column="text"), "kind"),
    ],
)
def test_label_numbers_are_not_used_as_texts(task: Any, column: str, tmp_path: Path) -> None:
    kind = ClassLabel(names=["x", "y"])
    features = {**dict.fromkeys(("text", "source", "target", "question"), Value("string")), "kind": kind}
    features = Features({**features, "nested": {"kind": kind}, "label": kind})
    row = {**dict.fromkeys(("text", "source", "target", "question"), "a"), "kind": 1, "nested": {"kind": 1}, "label": 0}
    Dataset.from_list([row, {**row, "label": 1}], features=features).to_parquet(tmp_path / "a.parquet")
    file = str(tmp_path / "a.parquet")
    task_of_file = task.model_copy(update={"path": {"train": file, "dev": file, "test": file}})
    with pytest.raises(InputError, match=rf"a\.parquet: {column}: is used as text, but has label numbers"):
        task_of_file.load()


def test_messages_do_not_show_internal_columns(write: Write) -> None:
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(20)]
    file = str(write("a.jsonl", rows))
    cut = {"path": file, "dev_fraction": 0.2, "test_fraction": 0.2, "max_rows": 5}
    for options in ({"text_column": "txt"}, {"label_column": "row"}, {"label_column": "x.y"}, {"prompt": "{row}"}):
        with pytest.raises(InputError) as caught:
            examples(TextClassification(**cut, **options))
        assert INTERNAL not in str(caught.value)
        assert "\\x1f" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "options", "index"),
    [
        ({"answer": 4, "choices": ["4", "3", "5"]}, {"answer_is": "text"}, 0),
        ({"answer": "3", "choices": [4, 3, 5]}, {"answer_is": "text"}, 1),
        ({"answer": 2.5, "choices": [2.5, 1.5]}, {"answer_is": "text"}, 0),
        ({"answer": True, "choices": ["true", "false"]}, {"answer_is": "text"}, 0),
        ({"answer": True, "choices": ["True", "False"]}, {"answer_is": "text"}, 0),
        ({"answer": "4", "choices": ["44", "4", "40"]}, {}, 1),
        ({"answer": "1", "choices": ["1", "2", "3"]}, {"answer_is": "text"}, 0),
        ({"answer": "1", "choices": ["1", "2", "3"]}, {"answer_is": "index"}, 1),
        ({"answer": "1", "choices": ["1", "2", "3"]}, {}, r"may be a number or a text; set answer_is"),
        ({"answer": 4, "choices": ["4", "3"]}, {}, r"the answer 4 is not among the choices .* answer_is = 'index'"),
        ({"answer": "x", "choices": ["x", ""]}, {}, r"choices: has an empty choice"),
        ({"answer": "", "choices": ["x", "y"]}, {}, r"answer: the answer '' is not among"),
        ({"answer": "x", "choices": "xy"}, {}, r"choices: must be a list of texts, not 'xy'"),
    ],
)  # fmt: skip
def test_answers_match_choices(row: Any, options: Any, index: int | str, write: Write) -> None:
    file = str(write("a.jsonl", [{"question": "q", **row}] * 2))
    task = MultipleChoice(path={"train": file, "dev": file, "test": file}, **options)
    if isinstance(index, str):
        with pytest.raises(InputError, match=rf"a\.jsonl, row 1: .*{index}"):
            examples(task)
    else:
        assert examples(task)[0].target == str(row["choices"][index])


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize(
    ("task", "column"),
    [
        *((TextClassification(path="x", prompt="{text} {shop}"), column) for column in ("text", "shop", "label")),
        *((TextClassification(path="x", text_pair_column="pair"), column) for column in ("text", "pair", "label")),
        *((TextGeneration(path="x"), column) for column in ("source", "target")),
        *(
            (MultipleChoice(path="x", choices_columns=("1", "2")), column)
            for column in ("question", "1", "2", "answer")
        ),
    ],
)
def test_an_empty_cell_is_rejected_with_its_location(task: Any, column: str, name: str, tmp_path: Path) -> None:
    row = {"text": "t", "pair": "p", "shop": "s", "label": "a", "source": "s", "target": "t", "unread": ""}
    row |= {"question": "q", "1": "a", "2": "b", "answer": "a"}
    write_file(tmp_path / name, [row, {**row, "label": "b"}, {**row, column: ""}])
    file = str(tmp_path / name)
    task_of_file = task.model_copy(update={"path": {"train": file, "dev": file, "test": file}})
    with pytest.raises(InputError, match=rf"{name}, row 3: {column}: is empty"):
        examples(task_of_file)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"data": 1}], r"a\.json' has 1 row \(columns: data\), too few to hold out rows for dev and test"),
        ([{"a": 1, "b": 2}] * 2, r"has 2 rows \(columns: a, b\), too few"),
    ],
)
def test_too_few_rows_to_hold_out_are_an_error(rows: Any, words: str, write: Write) -> None:
    with pytest.raises(InputError, match=words):
        load_splits(DataSource(str(write("a.json", rows)), dev_fraction=0.2, test_fraction=0.2))
