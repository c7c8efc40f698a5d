"""Writes rows to files of every format and loads them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from peftkit import Example
from peftkit.data.examples import to_examples
from peftkit.tasks import MultipleChoice, TextClassification, TextGeneration
from peftkit.tasks.sources.files import load_files
from tests.tasks.conftest import Rows

FILE_NAMES = ("a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet", "columns.json", "wrapped.json")


COLUMN_NAMES = (
    *(
        "answer",
        "choices",
        "source",
        "target",
        "input_ids",
        "labels",
        "label",
        "text",
        "length",
        "key",
        "gold",
        "index",
    ),
    *(
        "__row__",
        "__index__",
        "__index_level_0__",
        "candidates",
        "source_tokens",
        "group",
        "split",
        "data",
        "[x]*?",
        "a.b",
    ),
)


def write_file(file: Path, rows: Rows) -> None:
    """Writes rows in the format of the file name, as libraries do."""
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), file)
    elif file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".tsv":
        lines = ["\t".join(rows[0]), *("\t".join(row[column] for column in rows[0]) for row in rows)]
        file.write_bytes("".join(f"{line}\n" for line in lines).encode())
    elif file.name == "columns.json":
        file.write_text(json.dumps({column: [row[column] for row in rows] for column in rows[0]}))
    elif file.name == "wrapped.json":
        file.write_text(json.dumps({"version": 2, "rows": rows}, indent=1))
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    else:
        file.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline=""
        )


def load_rows(names: Sequence[str], *, streaming: bool = False) -> list[dict[str, Any]]:
    return [dict(row) for row in load_files({"train": names}, streaming=streaming)["train"]]


def examples(task: Any, split: str = "train") -> list[Example]:
    rows = task.load()[split]
    return to_examples(task, split, rows, range(len(rows)) if isinstance(rows, Dataset) else range(10**6))


EXAMPLE_ROWS: Mapping[type, list[dict[str, str]]] = {
    TextClassification: [{"text": t, "label": label} for t, label in (("007", "10"), ("true", "9"), ('"a"', "10"))],
    MultipleChoice: [
        {"question": "q1", "1": "0.50", "2": "1", "3": "true", "answer": "B"},
        {"question": "2.0", "1": "x", "2": "007", "3": "NA", "answer": "007"},
    ],
    TextGeneration: [{"source": "zip", "target": "01234"}, {"source": "1.00", "target": "NA"}],
}
