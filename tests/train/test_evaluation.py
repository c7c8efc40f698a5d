"""Evaluation sets are evaluated and stored like test, and change nothing else of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import InputError
from peftkit.plugins import Registry
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run
from peftkit.verify.verify_run import verify_run
from tests.tiny_runs import Make, small_task
from tests.train.test_resume import outcome

SPLITS = ("train", "dev", "test")


@pytest.fixture
def with_sets(make: Make, tmp_path: Path) -> tuple[tuple[str, ...], str, Path]:
    """The overrides of a recipe, the one that adds evaluation sets, and the file of one of them."""
    task = small_task(tmp_path / "data")
    rows = [{"text": f"thing {i} is {('small', 'big')[i % 2]}", "label": "ab"[i % 2]} for i in range(12)]
    rows += [{"text": f"this is not thing {i}", "label": "a"} for i in range(3)]
    easy, one = tmp_path / "easy.jsonl", tmp_path / "one.csv"
    easy.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    one.write_text("words,kind\n" + "".join(f"a thing {i},B\n" for i in range(11)), encoding="utf-8")
    columns = '{text_column = "words", label_column = "kind", label_mapping = {B = "b"}}'
    sets = (
        f'{{name = "easy", path = "{easy}", examples = 6}}',
        f'{{name = "one", path = "{one}", task = {columns}, at_end_only = true}}',
        '{name = "again", split = "dev"}',
    )
    return (task, "train.checkpoint={every = '3 steps', keep = 9}"), f"evaluate.set=[{', '.join(sets)}]", easy


def test_sets_are_evaluated_stored_and_verified_and_select_nothing(
    make: Make,
    registry: Registry,
    with_sets: tuple[tuple[str, ...], str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    overrides, sets, easy = with_sets
    path = run(make("encoder", *overrides, sets), registry)
    printed = capsys.readouterr().out
    plain = run(make("encoder", *overrides), registry, quiet=True)
    assert path is not None
    assert plain is not None
    summary, other = RunDirectory(path).summary(), RunDirectory(plain).summary()
    assert summary["evaluation_sets"] == ["easy", "one", "again"]
    rows, others = RunDirectory(path).evaluations(), RunDirectory(plain).evaluations()
    assert [[row[split] for split in SPLITS] for row in rows] == [[row[split] for split in SPLITS] for row in others]
    same = ("step", *SPLITS)
    assert [summary["selected"][key] for key in same] == [other["selected"][key] for key in same]
    assert [summary["cost"][key] == other["cost"][key] for key in ("gmacs", "trainable_parameters")] == [True, True]

    assert all("easy" in row and "again" in row and "one" not in row for row in rows)
    assert [row["again"] for row in rows] == [row["dev"] for row in rows], "the same rows have the same scores"
    sizes = {"train": 24, "dev": 8, "test": 8, "easy": 15, "one": 11, "again": 8}
    assert summary["rows"] == sizes
    assert summary["rows_evaluated"]["curve"] == {"train": 6, "dev": 8, "test": 8, "easy": 6, "again": 8}
    assert summary["rows_evaluated"]["selected"] == {key: sizes[key] for key in sizes if key != "train"}
    assert summary["train_overlap"] == {"dev": 8, "test": 8, "easy": 12, "one": 0, "again": 8}
    assert set(summary["baselines"]["majority"]) == {"dev", "test", "easy", "one", "again"}
    for name in ("easy", "one", "again"):
        stored = RunDirectory(path).predictions(name)
        assert len(stored) == sizes[name]
        right = sum(row["prediction"] == row["target"] for row in stored)
        assert summary["selected"][name]["accuracy"] == right / len(stored)
        assert {*stored[0]["candidates"]} == {"a", "b"}
    assert {row["target"] for row in RunDirectory(path).predictions("one")} == {"b"}
    table: Any = RunDirectory(path).examples()
    assert {*table["split"].to_pylist()} == {"dev", "test", "easy", "one", "again"}

    assert "rows train 24, dev 8, test 8, easy 15, one 11, again 8" in printed
    assert "overlap with train: 12 evaluated sources of easy" in printed
    assert "easy accuracy" in printed
    assert "evaluation sets" in printed
    checks = verify_run(path, registry).checks
    assert [check for check in checks if check.status == "differs"] == []
    assert any(check.group == "selected one" and check.status == "agrees" for check in checks)

    copy = tmp_path / "interrupted"
    shutil.copytree(path, copy)
    for file in (copy / "summary.json", *(copy / "checkpoints").glob("step-*6")):
        file.unlink() if file.is_file() else shutil.rmtree(file)
    assert len([*(copy / "checkpoints").glob("step-*")]) >= 1
    assert run(make("encoder", *overrides, sets), registry, resume=str(copy), quiet=True) == copy
    assert outcome(copy)["weights"] == outcome(path)["weights"]
    assert RunDirectory(copy).summary()["resumed_after_steps"] == [3]

    easy.write_text(easy.read_text(encoding="utf-8").replace("thing 0", "thing zero"), encoding="utf-8")
    with pytest.raises(InputError, match="different inputs: the rows of easy;"):
        run(make("encoder", *overrides, sets), registry, resume=str(path))
