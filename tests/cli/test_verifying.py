"""The verb ``verify``, and the report that carries what it gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from peftkit.cli import main
from tests.cli.conftest import Peftkit
from tests.cli.test_finished import RECIPE


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    (folder / "x.toml").write_text(RECIPE, encoding="utf-8")
    assert main(["run", str(folder / "x.toml"), "--set", f'run.output="{(folder / "runs").as_posix()}"']) == 0
    [path] = (folder / "runs").iterdir()
    return path


@pytest.fixture
def runs(original: Path, tmp_path: Path) -> Path:
    """A folder with that run and, beside it, one that was imported and one that has failed."""
    shutil.copytree(original, tmp_path / "runs" / "mine")
    for name, change in (("imported", {"imported": {"from": "peft-by-time"}}), ("failed", {"status": "failed"})):
        other = tmp_path / "runs" / name
        other.mkdir()
        shutil.copyfile(original / "recipe.toml", other / "recipe.toml")
        summary = json.loads((original / "summary.json").read_text())
        (other / "summary.json").write_text(json.dumps({**summary, **change}))
    return tmp_path / "runs"


def raise_score(run: Path) -> None:
    summary: Any = json.loads((run / "summary.json").read_text())
    summary["selected"]["test"]["accuracy"] += 0.1
    (run / "summary.json").write_text(json.dumps(summary))


def test_verify_prints_what_agrees_and_what_cannot_be_recomputed(peftkit: Peftkit, runs: Path) -> None:
    code, out, err = peftkit("verify", str(runs))
    assert (code, err) == (0, "")
    assert f"{runs / 'mine'}: all " in out
    assert " recomputed values agree\n" in out
    assert "not recomputable: measured peak_host_bytes: memory is measured while the model trains" in out
    assert f"{runs / 'imported'}: nothing could be recomputed: the results are imported from peft-by-time" in out
    assert f"{runs / 'failed'}: nothing could be recomputed: the run is failed, not done" in out
    line = next(line for line in out.splitlines() if line.startswith("  model "))
    assert int(line.split()[1]) >= 16


def test_verify_leaves_with_1_where_a_value_differs(peftkit: Peftkit, runs: Path) -> None:
    raise_score(runs / "mine")
    code, out, _ = peftkit("verify", str(runs / "mine"), "--no-model")
    assert code == 1
    assert "differs: selected test accuracy: stored 0." in out
    assert "not recomputable: model all: not checked, as asked for" in out
    code, out, _ = peftkit("verify", str(runs / "mine"), "--no-model", "--json")
    assert code == 1
    [found] = json.loads(out)["runs"]
    [check] = [check for check in found["checks"] if (check["what"], check["name"]) == ("selected test", "accuracy")]
    assert check["status"] == "differs"
    assert check["stored"] == pytest.approx(check["found"] + 0.1)


def test_verify_leaves_with_2_where_there_is_nothing_to_verify(peftkit: Peftkit, runs: Path, tmp_path: Path) -> None:
    code, out, err = peftkit("verify", str(runs / "imported"))
    assert (code, err) == (2, "peftkit: error: nothing could be recomputed\n")
    assert "imported from peft-by-time" in out
    (tmp_path / "empty").mkdir()
    code, _, err = peftkit("verify", "empty")
    assert (code, err) == (2, "peftkit: error: there is no run in empty\n")
    code, _, err = peftkit("verify", "nowhere")
    assert (code, err) == (2, "peftkit: error: nowhere: there is no such folder\n")


def test_a_report_says_what_was_verified_only_when_asked(peftkit: Peftkit, runs: Path, tmp_path: Path) -> None:
    shutil.rmtree(runs / "imported")
    run, page = str(runs / "mine"), tmp_path / "page.html"
    assert peftkit("report", run, "-o", str(page))[0] == 0
    assert "Verification" not in page.read_text()
    code, _, err = peftkit("report", run, "-o", str(page), "--verified")
    assert (code, err) == (0, "")
    text = page.read_text()
    assert "<td>lora</td><td>42</td><td>mine</td><td>all " in text
    assert "recomputed values agree</td><td>" in text
    assert "memory is measured while the model trains" in text
    assert "Not verified" not in text
    raise_score(runs / "mine")
    code, out, err = peftkit("report", run, "-o", str(page), "--verified", "--metric", "loss")
    assert (code, out) == (1, f"{page}\n")
    assert err.startswith(f"{runs / 'mine'}: 4 of ")
    assert "recomputed values differ: selection test accuracy, selected test accuracy, " in err
    assert "of 1 of 1 runs, values differ from those that were recomputed" in page.read_text()
    code, _, err = peftkit("report", run, "--figures", "figures", "--verified")
    assert code == 2
    assert "--verified is for the page; name one with --output" in err
