"""Which tasks recognize which columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import InputError
from peftkit.tasks import MultipleChoice, TextClassification, TextGeneration
from peftkit.tasks.dataset_task import DatasetTask
from peftkit.tasks.hub import CommonsenseQa
from peftkit.tasks.sources.data_sample import read_sample

Rows = list[dict[str, Any]]
LONG = "a text of several words, number"
CASES: dict[str, tuple[type[DatasetTask], Rows, dict[str, Any]]] = {
    "named": (
        TextClassification,
        [{"id": i, "Text": f"{LONG} {i}", "Label": "ab"[i % 2]} for i in range(40)],
        {"text_column": "Text", "label_column": "Label"},
    ),
    "unnamed": (
        TextClassification,
        [{"said": f"{LONG} {i}", "mood": "ab"[i % 2], "by": "xyz"[i * i % 3]} for i in range(40)],
        {"text_column": "said", "label_column": "mood"},
    ),
    "pair": (
        TextClassification,
        [{"premise": f"{LONG} {i}", "hypothesis": f"so {i}", "label": i % 3} for i in range(40)],
        {"text_column": "premise", "text_pair_column": "hypothesis", "label_column": "label"},
    ),
    "list": (
        MultipleChoice,
        [{"question": f"{LONG} {i}", "choices": ["x", "y", "z"], "answer": i % 3} for i in range(40)],
        {"question_column": "question", "choices_column": "choices", "answer_column": "answer", "answer_is": "index"},
    ),
    "nested": (
        MultipleChoice,
        [
            {"question": f"{LONG} {i}", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "12"[i % 2]}
            for i in range(40)
        ],
        {"choices_column": "choices.text", "choice_labels_column": "choices.label", "answer_column": "answerKey"},
    ),
    "lettered": (
        MultipleChoice,
        [{"question": f"{LONG} {i}", "A": "x", "B": "y", "C": "z", "answer": "ABC"[i % 3]} for i in range(40)],
        {"choices_columns": ["A", "B", "C"], "answer_column": "answer"},
    ),
    "numbered": (
        MultipleChoice,
        [{"ctx": f"{LONG} {i}", "ending0": f"x {i}", "ending1": "y", "label": 1 + i % 2} for i in range(40)],
        {"question_column": "ctx", "choices_columns": ["ending0", "ending1"], "answer_is": "number"},
    ),
    "summary": (
        TextGeneration,
        [{"article": f"{LONG} {i}", "summary": f"brief {i}"} for i in range(40)],
        {"source_column": "article", "target_column": "summary"},
    ),
    "two texts": (
        TextGeneration,
        [{"english": f"{LONG} {i}", "latin": f"verba multa et brevia {i}"} for i in range(40)],
        {"source_column": "english", "target_column": "latin"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_task_that_fits_best_loads_with_the_recognized_columns(case: str, tmp_path: Path) -> None:
    expected, rows, options = CASES[case]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    matches = [
        (m, task) for task in (TextClassification, MultipleChoice, TextGeneration) for m in task.recognize(str(path))
    ]
    match, task = max(matches, key=lambda pair: pair[0].score)
    assert task is expected
    assert options.items() <= match.options.items()
    assert match.options["dev_fraction"] == match.options["test_fraction"] == 0.1
    loaded: Any = task(**match.options)
    assert loaded.to_example(loaded.load()["train"][0]).target


def test_splits_of_a_folder_are_not_held_out(tmp_path: Path) -> None:
    for name in ("train.csv", "validation.csv"):
        rows = "".join(f"{LONG} {i},{'ab'[i % 2]}\n" for i in range(40)).replace(", number", "")
        (tmp_path / name).write_text(f"text,label\n{rows}", encoding="utf-8")
    [match] = TextClassification.recognize(str(tmp_path))
    assert "dev_fraction" not in match.options
    assert match.options["test_fraction"] == 0.1


def test_tasks_on_a_dataset_of_their_own_recognize_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(CASES["nested"][1][0]), encoding="utf-8")
    assert CommonsenseQa.recognize(str(path)) == []


def test_missing_and_unsupported_files(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"no file or folder .*rows\.cvs.*did you mean"):
        read_sample(str(tmp_path / "rows.cvs"))
    (tmp_path / "rows.xyz").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="unsupported extension"):
        read_sample(str(tmp_path / "rows.xyz"))
