"""Sweeps in Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import peftkit
from peftkit.errors import InputError, RunInterrupted
from peftkit.sweep.scheduler import Failure, Sweep

BASE = """
[model]
name = "pocket-encoder"
[method]
name = "bitfit"
[train]
batch_size = 8
[train.budget]
steps = 1
[evaluate]
every = "100%"
train_examples = 0
dev_examples = 8
test_examples = 8
full_splits = false
[track]
to = []
"""


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    from tests.tiny_runs import small_task

    (tmp_path / "base.toml").write_text(f"{small_task(tmp_path / 'rows')}\n{BASE}", encoding="utf-8")
    text = f'name = "s"\nrecipe = "base.toml"\noutput = "{tmp_path.as_posix()}/runs"\n[axes]\nseed = [1, 2]\n'
    (tmp_path / "sweep.toml").write_text(text, encoding="utf-8")
    return tmp_path / "sweep.toml"


def test_the_result_names_what_failed(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = Failure("seed 1", "log.txt", ("boom",))
    monkeypatch.setattr(Sweep, "run", lambda self: [failure])
    environment = dict(os.environ)
    result = peftkit.run_sweep(sweep_file, jobs=2)
    assert result.failures == (failure,)
    assert (result.total, result.path) == (2, sweep_file.parent / "runs" / "s")
    assert "failed: seed 1: log.txt" in repr(result)
    assert "<th>failed: seed 1</th>" in result._repr_html_()
    assert capsys.readouterr().out == f"s: 2 runs in {result.path}, 2 at a time\n"
    assert dict(os.environ) == environment
    with pytest.raises(InputError):
        result.compare()


def test_an_interrupted_sweep_names_the_call_that_resumes_it(sweep_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Sweep) -> list[Failure]:
        raise RunInterrupted("", 15)

    monkeypatch.setattr(Sweep, "run", stop)
    with pytest.raises(RunInterrupted, match=r"call run_sweep\('.*sweep\.toml'\) again to resume") as interrupted:
        peftkit.run_sweep(str(sweep_file), quiet=True)
    assert interrupted.value.exit_code == 143


def test_an_invalid_sweep_is_an_input_error(sweep_file: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        peftkit.run_sweep(sweep_file.with_name("other.toml"))
    with pytest.raises(InputError, match="batch_sizes"):
        peftkit.run_sweep(sweep_file, ["train.batch_sizes=3"])


@pytest.mark.slow
def test_a_script_without_a_guard_runs_a_sweep_once(sweep_file: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import peftkit\nresult = peftkit.run_sweep({str(sweep_file)!r}, only=['run.seed=1'])\nprint(result.runs)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 runs in") == 1
    assert "bitfit  text_classification  pocket-encoder  1     done" in done.stdout
