"""The run directory survives what happens to it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from peftkit.errors import InputError, RunError
from peftkit.runs import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs", "name")


def test_two_runs_of_one_name_have_two_folders(tmp_path: Path) -> None:
    paths = {RunDirectory.create(tmp_path, "same").path for _ in range(20)}
    assert len(paths) == 20
    assert all(p.name.startswith("same-") and p.is_dir() for p in paths)


def test_an_output_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made"):
        RunDirectory.create(tmp_path / "file", "name")


def test_numbers_that_json_lacks_become_null(run: RunDirectory) -> None:
    run.write_json("summary.json", {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}})
    assert run.summary() == {"format": 1, "a": None, "b": [None, 1.5], "c": {"d": None}}


def test_evaluations_are_appended_and_read_back(run: RunDirectory) -> None:
    for step in (0, 5):
        run.append_evaluation({"step": step, "dev": {"loss": 1.0}})
    assert [row["step"] for row in run.evaluations()] == [0, 5]


def test_a_write_that_fails_leaves_the_old_file(run: RunDirectory) -> None:
    run.write_json("summary.json", {"status": "done"})
    with pytest.raises(TypeError):
        run.write_json("summary.json", {"status": object()})
    assert run.summary()["status"] == "done"


def test_a_folder_is_replaced_whole_or_not_at_all(run: RunDirectory) -> None:
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
@pytest.mark.parametrize("text", ["", '{"format": 1, "a', '{"format": 2}', "[]", "\x00"])
def test_damaged_missing_and_newer_files_are_told_by_name(run: RunDirectory, name: str, text: str) -> None:
    read = run.summary if name == "summary.json" else run.evaluations
    with pytest.raises(InputError, match=name):
        read()
    (run.path / name).write_text(text)
    if name == "evaluations.jsonl" and not text:
        assert read() == []
        return
    with pytest.raises(InputError, match=name):
        read()


def test_text_is_utf_8_whatever_the_locale(run: RunDirectory) -> None:
    run.write_lines("predictions/test.jsonl", [{"source": "naïve → 字"}])
    raw = (run.path / "predictions/test.jsonl").read_bytes()
    assert json.loads(raw.decode("utf-8")) == {"source": "naïve → 字"}
