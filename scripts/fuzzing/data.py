"""Draws random rows and writes them in a random file format."""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from peftkit.testing.tokenizers import CORPUS

WORDS = [
    *[
        "classify:",
        "positive",
        "or",
        "negative?",
        "answer:",
        "choices:",
        "A",
        "-",
        "B",
        "-",
        "C",
        "-",
        "0.50",
        "it's",
        "100%",
        "“fine”!",
        "東京",
        "и",
        "Москва",
    ]
]
WORDS += [word for text in CORPUS for word in text.split()]
ODD = ["</s>", "<pad>", "[SEP]", "007", "2.50", "true", "…", "\t", "  ", "{text}", '"', "'", "née", "zzz"]
FORMS = ("csv", "tsv", "jsonl", "json", "parquet")


@dataclass(frozen=True)
class Rows:
    """The rows of each split as the model should see them, and the task that loads them.

    A row is a tuple of its source, its candidates (only the target for generation) and the index of the target.
    """

    task: dict[str, Any]
    form: str
    train: list[tuple[str, list[str], int]]
    dev: list[tuple[str, list[str], int]]
    test: list[tuple[str, list[str], int]]


def _text(rng: random.Random, longest: int, form: str) -> str:
    words = [rng.choice(ODD) if rng.random() < 0.08 else rng.choice(WORDS) for _ in range(rng.randint(1, longest))]
    text = " ".join(words).strip() or "x"
    return text.replace("\t", " ").replace('"', "”").strip() if form == "tsv" else text


def draw_rows(rng: random.Random, folder: Path, *, generates: bool) -> Rows:
    """Draw rows and write them to a folder."""
    form = rng.choice(FORMS)
    kind = rng.choice(["text_classification", "multiple_choice", "text_generation"][: 3 if generates else 2])
    draw = {"text_classification": _classified, "multiple_choice": _chosen, "text_generation": _generated}[kind]
    sizes = {"train": rng.choice([4, 6]), "dev": rng.randint(2, 5), "test": 2}
    labels = ["bad", "good"] if rng.random() < 0.5 else ["0.50", "01", "yes indeed"]
    lines: dict[str, list[dict[str, Any]]] = {}
    examples: dict[str, list[tuple[str, list[str], int]]] = {}
    for split, size in sizes.items():
        pairs = [draw(rng, number, labels, form) for number in range(size)]
        lines[split], examples[split] = [line for line, _ in pairs], [example for _, example in pairs]
        _write(folder / f"{split}.{form}", lines[split])
    task: dict[str, Any] = {"name": kind, "path": {s: (folder / f"{s}.{form}").as_posix() for s in sizes}}
    if kind == "text_classification":
        task["label_names"] = labels
    elif kind == "multiple_choice":
        task |= {"choices_columns": ["one", "two", "three"], "answer_is": "label"}
    if kind != "multiple_choice":
        field = "text" if kind == "text_classification" else "source"
        prompt = rng.choice(["classify: {} answer:", "{}", "{} =>", "Q {}"])
        task["prompt"] = prompt.replace("{}", "{" + field + "}")
        for split in examples:
            examples[split] = [(prompt.replace("{}", s), texts, answer) for s, texts, answer in examples[split]]
    return Rows(task, form, examples["train"], examples["dev"], examples["test"])


def _classified(rng: random.Random, number: int, labels: list[str], form: str) -> tuple[dict[str, Any], Any]:
    text, answer = _text(rng, 9, form), number % len(labels)
    return {"text": text, "label": labels[answer]}, (text, labels, answer)


def _chosen(rng: random.Random, number: int, labels: list[str], form: str) -> tuple[dict[str, Any], Any]:
    choices: list[str] = []
    while len(choices) < 3:
        text = _text(rng, 3, form)
        if text not in choices:
            choices.append(text)
    question, answer = _text(rng, 6, form), number % 3
    shown = " ".join(f"{letter} - {text}" for letter, text in zip("ABC", choices, strict=True))
    line = dict(zip(("one", "two", "three"), choices, strict=True)) | {"question": question, "answer": "ABC"[answer]}
    return line, (f"question: {question} choices: {shown}", choices, answer)


def _generated(rng: random.Random, number: int, labels: list[str], form: str) -> tuple[dict[str, Any], Any]:
    source, target = _text(rng, 8, form), _text(rng, 4, form)
    return {"source": source, "target": target}, (source, [target], 0)


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(lines), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(lines), encoding="utf-8")
    elif path.suffix == ".tsv":
        texts = ["\t".join(lines[0]), *("\t".join(line.values()) for line in lines)]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
