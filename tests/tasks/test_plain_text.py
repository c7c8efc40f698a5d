"""Plain text."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.errors import MissingFieldsError, RowError
from peftkit.tasks import PlainText
from tests.tasks.conftest import Write, write

__all__ = ["write"]  # the fixture


def test_the_text_is_source_and_target_as_it_is() -> None:
    task = PlainText(path="x", group_column="author")
    example = task.to_example({"text": " Two lines\n of text. ", "author": "a"})
    assert example.source == example.target == " Two lines\n of text. "
    assert example.group == "a"
    assert task.to_prompt({"text": "Two"}).target == ""


def test_documents_may_have_several_columns() -> None:
    task = PlainText(path="x", prompt="{title}\n\n{text}", text_column="body")
    assert task.to_example({"title": "A", "body": "b"}).source == "A\n\nb"
    with pytest.raises(MissingFieldsError, match="title, body"):
        task.to_prompt({})


def test_an_empty_text_is_an_error_of_the_row() -> None:
    with pytest.raises(RowError, match="text: is empty"):
        PlainText(path="x").to_example({"text": " \n"})


def test_only_data_with_nothing_but_a_text_are_recognized(write: Write, tmp_path: Path) -> None:
    rows = [{"text": f"The bell rang {n} times."} for n in range(30)]
    [match] = PlainText.recognize(str(write("texts.jsonl", rows)))
    assert match.options["text_column"] == "text"
    assert not PlainText.recognize(str(write("labelled.jsonl", [{**row, "label": "a"} for row in rows])))
