"""A run lists the invalid rows that it skipped."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peftkit.analysis.task_preview import preview_task
from peftkit.cli.commands.recipe_commands.task_preview import _document, _page
from peftkit.errors import InputError
from peftkit.plugins import Registry
from peftkit.train.run import run
from peftkit.verify.stored_files import row_checks
from tests.tiny_runs import Make, small_task

SUMMARIZED = ("digests", "num_evaluated_rows", "truncated", "train_overlap")


def test_skipped_rows_are_listed_and_part_of_the_digest(
    make: Make, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = small_task(tmp_path / "data").replace("}", ', on_bad_row = "skip", max_bad = 1}')
    file = tmp_path / "data" / "train.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*lines[:3], '{"text": " ", "label": "a"}', *lines[3:]]), encoding="utf-8")
    recipe = make("decoder", task, "train.budget.steps=1", "evaluate.every='100%'", "evaluate.train_examples=0")
    preview = _document(preview_task(recipe, "train", 1))
    assert [split["rows_skipped"] for split in preview["splits"].values()] == [1, 0, 0]
    assert "train: 24 rows, 1 skipped, 24 measured:" in _page(preview)
    path = run(recipe, registry)
    assert path is not None
    assert "skipped in train: 1 invalid rows (skipped.jsonl)" in capsys.readouterr().out
    [row] = map(json.loads, (path / "skipped.jsonl").read_text(encoding="utf-8").splitlines())
    assert row == {"split": "train", "file": str(file), "row": 4, "reason": "text: is empty"}
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    assert summary["rows_skipped"] == {"train": 1, "dev": 0, "test": 0}
    data: Any = SimpleNamespace(
        **{key: {} for key in SUMMARIZED}, split_sizes={"train": 24}, num_skipped={"train": 2}, num_ignored={}
    )
    recorded: Any = SimpleNamespace(recipe=recipe, summary=summary, require_rows=lambda: data)
    assert [c.stored for c in row_checks(recorded) if c.name == "rows_skipped train"] == [1]
    assert run(recipe, registry, resume=str(path)) == path
    other = "\n".join(['{"text": " ", "label": "a"}', *lines[1:]])
    file.write_text(other, encoding="utf-8")
    with pytest.raises(InputError, match=r"the rows of train, the skipped rows"):
        run(recipe, registry, resume=str(path))
