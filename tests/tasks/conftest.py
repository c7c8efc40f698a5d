"""Rows of each data set with the hub's columns, and a fixture that writes them to files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Rows = Sequence[Mapping[str, Any]]
Write = Callable[[str, Rows], Path]


def tweets(number: int, labels: int = 4) -> list[dict[str, Any]]:
    return [{"text": f"tweet {i} #tag @user é", "label": i % labels} for i in range(number)]


def questions(number: int) -> list[dict[str, Any]]:
    letters = ["A", "B", "C", "D", "E"]
    return [
        {
            "question": f"what is {i}?",
            "choices": {"label": letters, "text": [f"thing {i} {letter.lower()}" for letter in letters]},
            "answerKey": letters[i % 5],
        }
        for i in range(number)
    ]


def examinations(number: int) -> list[dict[str, Any]]:
    return [
        {
            "example_id": f"high{i}.txt",
            "article": f"Article {i} has a long story. " * 5,
            "question": f"What is in article {i}?",
            "options": [f"a story {i}", f"a tale; long {i}", f"nothing {i}", f"a lie {i}"],
            "answer": "ABCD"[i % 4],
        }
        for i in range(number)
    ]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows to a file, in the format of its extension, in the test's folder."""

    def written(name: str, rows: Rows) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(list(rows)), path)
        elif path.suffix in (".csv", ".tsv"):
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
        elif path.suffix == ".json":
            path.write_text(json.dumps(list(rows)), encoding="utf-8")
        else:
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return written
