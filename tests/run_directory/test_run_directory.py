"""The run directory stays readable after failures and interruptions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import InputError, RunError
from peftkit.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs", "name")


def test_two_runs_of_one_name_have_two_folders(tmp_path: Path) -> None:
    paths = {RunDirectory.create(tmp_path, "same").path for _ in range(20)}
    assert len(paths) == 20
    assert all(p.name.startswith("same-") and p.is_dir() for p in paths)


def test_an_output_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be created in .*; set run\.output to a writable folder"):
        RunDirectory.create(tmp_path / "file", "name")


def test_non_finite_numbers_become_null(run: RunDirectory) -> None:
    run.write_json("summary.json", {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}})
    assert run.summary() == {"format": 3, "a": None, "b": [None, 1.5], "c": {"d": None}}


def test_evaluations_are_appended_and_read_back(run: RunDirectory) -> None:
    for step in (0, 5):
        run.append_evaluation({"step": step, "dev": {"loss": 1.0}})
    assert [row["step"] for row in run.evaluations()] == [0, 5]


def test_a_failed_write_keeps_the_old_file(run: RunDirectory) -> None:
    run.write_json("summary.json", {"status": "done"})
    with pytest.raises(TypeError):
        run.write_json("summary.json", {"status": object()})
    assert run.summary()["status"] == "done"


def test_a_folder_is_replaced_atomically(run: RunDirectory) -> None:
    run.replace_folder("model", lambda folder: (folder / "a").write_text("1") and None)
    run.replace_folder("model", lambda folder: (folder / "b").write_text("2") and None)
    assert [f.name for f in (run.path / "model").iterdir()] == ["b"]

    def fails(folder: Path) -> None:
        (folder / "c").write_text("3")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="model cannot be written: No space"):
        run.replace_folder("model", fails)
    assert [f.name for f in (run.path / "model").iterdir()] == ["b"]


@pytest.mark.parametrize("name", ["summary.json", "evaluations.jsonl"])
@pytest.mark.parametrize("text", ["", '{"format": 1, "a', '{"format": 4}', "[]", "\x00"])
def test_damaged_missing_and_newer_files_are_errors_that_name_them(run: RunDirectory, name: str, text: str) -> None:
    read = run.summary if name == "summary.json" else run.evaluations
    with pytest.raises(InputError, match=name):
        read()
    (run.path / name).write_text(text)
    if name == "evaluations.jsonl" and not text:
        assert read() == []
        return
    with pytest.raises(InputError, match=name):
        read()


def test_text_is_utf_8_in_every_locale(run: RunDirectory) -> None:
    run.write_lines("predictions/test.jsonl", [{"source": "naïve → 字"}])
    raw = (run.path / "predictions/test.jsonl").read_bytes()
    assert json.loads(raw.decode("utf-8")) == {"source": "naïve → 字"}


def lines(step: int, number: int = 3) -> dict[str, list[dict[str, Any]]]:
    rows = [
        {"index": i, "loss": step + i / 8, "tokens": 2, "scores": {"rougeL": i / 4}, "group": "a" if i else ""}
        for i in range(number)
    ]
    return {"dev": rows[:2], "test": rows}


def stored(run: RunDirectory) -> list[dict[str, Any]]:
    table = run.examples()
    rows = [] if table is None else table.to_pylist()
    return sorted(rows, key=lambda row: (row["full_split"], row["step"], row["split"], row["index"]))


def test_examples_of_all_evaluations_are_merged_into_one_file(run: RunDirectory) -> None:
    assert run.examples() is None
    for step in (0, 5, 10):
        run.add_examples(step, lines(step), whole=False)
    run.add_examples(5, lines(5, 6), whole=True)
    before = stored(run)
    assert [row["step"] for row in before] == [0] * 5 + [5] * 5 + [10] * 5 + [5] * 8
    run.merge_examples()
    assert stored(run) == before
    assert not (run.path / "examples").exists()
    assert before[1] == {
        "step": 0,
        "split": "dev",
        "full_split": False,
        "index": 1,
        "group": "a",
        "loss": 0.125,
        "tokens": 2,
        "scores": {"rougeL": 0.25},
    }


@pytest.mark.parametrize("merged", [False, True])
def test_a_resumed_run_keeps_the_examples_of_kept_evaluations(run: RunDirectory, merged: bool) -> None:
    whole = RunDirectory.create(run.path.parent, "whole")
    for each in (run, whole):
        for step in (0, 5, 10):
            each.add_examples(step, lines(step), whole=False)
    run.add_examples(5, lines(5, 6), whole=True)
    if merged:
        run.merge_examples()
    run.truncate_examples([0, 5])
    assert {(row["step"], row["full_split"]) for row in stored(run)} == {(0, False), (5, False)}
    run.add_examples(10, lines(10), whole=False)
    run.merge_examples()
    whole.merge_examples()
    assert (run.path / "examples.parquet").read_bytes() == (whole.path / "examples.parquet").read_bytes()
    with pytest.raises(InputError, match="no results per example of the evaluation at step 15"):
        run.truncate_examples([0, 15])
    run.truncate_examples([])
    assert run.examples() is None


def test_a_full_disk_loses_no_example(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    run.add_examples(0, lines(0), whole=False)
    run.add_examples(5, lines(5), whole=False)
    before = stored(run)

    def full(tables: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("peftkit.run_directory.stored_examples.write_table", full)
    for do in (lambda: run.add_examples(10, lines(10), whole=False), run.merge_examples):
        with pytest.raises(RunError, match="cannot be written: No space left"):
            do()
    assert stored(run) == before
    assert not [path for path in run.path.rglob("*") if path.name.endswith(".tmp")]


def test_a_kill_between_merge_and_cleanup_duplicates_no_example(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.add_examples(0, lines(0), whole=False)
    run.add_examples(0, lines(0, 6), whole=True)
    before = stored(run)
    monkeypatch.setattr("peftkit.run_directory.stored_examples.shutil.rmtree", lambda *a, **k: None)
    run.merge_examples()
    assert (run.path / "examples").exists()
    assert stored(run) == before


@pytest.mark.parametrize("number", [1, 2])
def test_summaries_of_older_formats_are_read(run: RunDirectory, number: int) -> None:
    (run.path / "summary.json").write_text(json.dumps({"format": number, "status": "done"}))
    assert run.finished


def test_baselines_are_read_from_their_file_or_an_old_summary(run: RunDirectory) -> None:
    assert run.baselines() == {}
    scores = {"constant": {"test": {"accuracy": 0.5}}}
    run.write_json("summary.json", {"status": "done", "baselines": scores})
    assert run.baselines() == scores
    (run.path / "summary.json").unlink()
    run.write_json("baselines.json", {"baselines": scores})
    assert run.baselines() == scores
    (run.path / "baselines.json").write_text("{")
    assert run.baselines() == {}
