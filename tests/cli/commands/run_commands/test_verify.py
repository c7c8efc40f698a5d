from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.commands.conftest import raise_score
from tests.cli.conftest import Peftkit


@pytest.fixture
def runs(finished_run: Path, tmp_path: Path) -> Path:
    """A folder with the finished run, an imported one and a failed one."""
    shutil.copytree(finished_run, tmp_path / "runs" / "mine")
    for name, change in (("imported", {"imported": {"from": "peft-by-time"}}), ("failed", {"status": "failed"})):
        other = tmp_path / "runs" / name
        other.mkdir()
        shutil.copyfile(finished_run / "recipe.toml", other / "recipe.toml")
        summary = json.loads((finished_run / "summary.json").read_text())
        (other / "summary.json").write_text(json.dumps({**summary, **change}))
    return tmp_path / "runs"


def test_verify_prints_agreeing_and_not_recomputable_values(peftkit: Peftkit, runs: Path) -> None:
    code, out, err = peftkit("verify", str(runs))
    assert (code, err) == (0, "")
    assert f"{runs / 'mine'}: all " in out
    assert " recomputed values agree\n" in out
    assert (
        "not recomputable: measured peak_host_bytes, host_bytes_before_training: memory is measured during training"
        in out
    )
    assert f"{runs / 'imported'}: nothing could be recomputed: the results are imported from peft-by-time" in out
    assert f"{runs / 'failed'}: nothing could be recomputed: the run is failed, not done" in out
    line = next(line for line in out.splitlines() if line.startswith("  model "))
    assert int(line.split()[1]) >= 16


@pytest.mark.slow
def test_verify_exits_with_1_if_a_value_differs(peftkit: Peftkit, runs: Path) -> None:
    raise_score(runs / "mine")
    code, out, _ = peftkit("verify", str(runs / "mine"), "--no-model")
    assert code == 1
    assert "differs: selected test accuracy: stored 0." in out
    assert "not recomputable: model all: not checked, as requested" in out
    code, out, _ = peftkit("verify", str(runs / "mine"), "--no-model", "--json")
    assert code == 1
    [run] = json.loads(out)["runs"]
    [check] = [check for check in run["checks"] if (check["part"], check["name"]) == ("selected test", "accuracy")]
    assert check["status"] == "differs"
    assert check["stored"] == pytest.approx(check["recomputed"] + 0.1)


def test_verify_exits_with_2_without_anything_to_verify(peftkit: Peftkit, runs: Path, tmp_path: Path) -> None:
    code, out, err = peftkit("verify", str(runs / "imported"))
    assert (code, err) == (2, "peftkit: error: nothing could be recomputed\n")
    assert "imported from peft-by-time" in out
    (tmp_path / "empty").mkdir()
    code, _, err = peftkit("verify", "empty")
    assert (code, err) == (2, "peftkit: error: there is no run in empty\n")
    code, _, err = peftkit("verify", "nowhere")
    assert (code, err) == (2, "peftkit: error: nowhere: no such folder\n")
