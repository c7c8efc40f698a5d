"""Rows that are too long for an objective that truncates none are found before a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftkit.analysis.row_check import find_long_rows
from peftkit.plugins import Registry
from peftkit.recipe import load_recipe
from tests.tiny_runs import CHAT_TEMPLATE

RECIPE = f"""
[model]
name = "pocket-decoder"
[task]
name = "chat"
path = "rows.jsonl"
dev_fraction = 0.2
test_fraction = 0.2
[objective]
name = "chat_completion"
chat_template = '''{CHAT_TEMPLATE}'''
[method]
name = "full"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(file: Path, *prompts: str) -> None:
    file.write_text("".join(json.dumps({"prompt": p, "completion": "yes"}) + "\n" for p in prompts), encoding="utf-8")


def test_long_conversations_are_found_with_their_row(folder: Path, registry: Registry) -> None:
    write(folder / "rows.jsonl", *(f"question {i}" for i in range(30)))
    write(folder / "hard.jsonl", "short", "a very long question " * 300)
    sets = '[[evaluate.set]]\nname = "hard"\npath = "hard.jsonl"\n'
    (folder / "x.toml").write_text(RECIPE + sets, encoding="utf-8")
    [(key, text)] = find_long_rows(load_recipe(folder / "x.toml", registry))
    assert key == ("evaluate", "set", 0)
    assert "the set 'hard': hard.jsonl, row 2: " in text
    assert "train.max_source_length" in text


def test_a_missing_template_is_a_problem_of_the_objective(folder: Path, registry: Registry) -> None:
    write(folder / "rows.jsonl", *(f"question {i}" for i in range(30)))
    (folder / "x.toml").write_text(RECIPE.partition("chat_template")[0] + '[method]\nname = "full"\n', encoding="utf-8")
    [(key, text)] = find_long_rows(load_recipe(folder / "x.toml", registry))
    assert key == ("objective", "chat_template")
    assert text.startswith("the tokenizer has no chat template")
