from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peftkit.cli import main
from tests.cli.conftest import Peftkit


def ends_after_three_waits(run: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Makes a finished run look as if it ended while it is watched, and returns the seconds that were waited."""
    summary = (run / "summary.json").read_text()
    (run / "summary.json").unlink()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            (run / "summary.json").write_text(summary)

    monkeypatch.setattr("peftkit.cli.commands.run_commands.watch.time", SimpleNamespace(sleep=sleep))
    return waited


def test_watch_draws_the_curve_once_without_a_terminal(peftkit: Peftkit, runs: Path) -> None:
    run = str(next(runs.glob("lora-1-*")))
    code, out, _ = peftkit("watch", run)
    assert code == 0
    assert "lora on t with m: done" in out
    assert "step 2: dev 0.8100, test 0.8100" in out
    assert any(0x2800 < ord(character) < 0x2900 for character in out)
    assert out.rstrip().splitlines()[-2].split() == ["0", "gmacs", "2"]
    code, _, err = peftkit("watch", run, "--metric", "f2")
    assert code == 2
    assert "no metric is called 'f2'" in err


def test_watch_shows_a_folder_of_runs(peftkit: Peftkit, runs: Path, tmp_path: Path) -> None:
    code, out, err = peftkit("watch", str(runs))
    assert (code, err) == (0, "")
    assert "runs: 6 of 6 runs done; best on t with m: lora 0.8300" in out
    assert "lora 0.8300  full 0.5000" in out
    assert any(0x2800 < ord(character) < 0x2900 for character in out)
    document = json.loads(peftkit("watch", str(runs), "--json")[1])
    assert (document["done"], document["total"], document["active"]) == (6, 6, False)
    assert [run["method"] for run in document["best"]] == ["lora"]
    (tmp_path / "empty").mkdir()
    for folder, problem in (("empty", "there is no run in it"), ("nowhere", "no such folder")):
        code, _, err = peftkit("watch", folder)
        assert (code, problem in err) == (2, True)


def test_watch_prints_a_line_for_each_change_without_a_terminal(
    peftkit: Peftkit, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = next(runs.glob("lora-1-*"))
    waited = ends_after_three_waits(run, monkeypatch)
    code, out, _ = peftkit("watch", str(runs))
    lines = [line for line in out.splitlines() if line.startswith("runs: ")]
    assert (code, len(waited)) == (0, 3)
    assert [line.split(";")[0] for line in lines] == ["runs: 5 of 6 runs done, 1 running", "runs: 6 of 6 runs done"]
    assert "\x1b" not in out


def test_watch_shows_baseline_scores(peftkit: Peftkit, runs: Path) -> None:
    run = next(runs.glob("lora-1-*"))
    code, plain, _ = peftkit("watch", str(run))
    assert "dotted" not in plain
    scores = {"constant": 0.9, "majority": 0.4, "random": 0.4}
    baselines = {name: {"test": {"accuracy": score}, "dev": {}} for name, score in scores.items()}
    (run / "baselines.json").write_text(json.dumps({"format": 2, "baselines": baselines}))
    code, out, _ = peftkit("watch", str(run))
    assert code == 0
    assert "baselines on test (dotted): constant 0.9000, majority 0.4000, random 0.4000" in out
    lines = out.splitlines()
    assert lines[2].startswith("0.9│⠁ ⠁ ⠁ ⠁")
    assert lines[2].endswith(" constant")
    [shared] = [line for line in lines if line.endswith(" majority, random")]
    assert sum(0x2800 < ord(character) < 0x2900 for character in shared) > 10
    assert all(len(line) <= 100 for line in lines)
    assert "dotted" not in peftkit("watch", str(run), "--metric", "loss")[1]


def test_watch_skips_evaluations_without_a_score(peftkit: Peftkit, runs: Path) -> None:
    run = next(runs.glob("lora-1-*"))
    text = (run / "evaluations.jsonl").read_text().replace('"dev": {"accuracy": 0.1}', '"dev": {"accuracy": null}')
    (run / "evaluations.jsonl").write_text(text)
    (run / "recipe.toml").write_text("")
    code, out, _ = peftkit("watch", str(run))
    assert code == 0
    assert "? on ? with ?: done" in out
    (run / "evaluations.jsonl").write_text(text.replace('"cost"', '"other"'))
    code, _, err = peftkit("watch", str(run))
    assert (code, "have measured 'gmacs'" in err) == (2, True)


def test_watch_waits_for_the_first_evaluation(peftkit: Peftkit, runs: Path) -> None:
    run = next(runs.glob("lora-1-*"))
    (run / "evaluations.jsonl").unlink()
    (run / "summary.json").unlink()
    code, out, _ = peftkit("watch", str(run), "--once")
    assert code == 0
    assert "running" in out
    assert "no evaluation yet" in out


def test_watch_follows_a_run_to_its_end(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    run = next(runs.glob("lora-1-*"))
    waited = ends_after_three_waits(run, monkeypatch)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert main(["watch", str(run)]) == 0
    assert len(waited) == 3
    assert ": done" in capsys.readouterr().out


@pytest.mark.parametrize("no_color", [False, True])
def test_watch_respects_no_color(no_color: bool, peftkit: Peftkit, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    code, out, _ = peftkit("watch", str(next(runs.glob("lora-1-*"))), "--once")
    assert code == 0
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]", out)) is not no_color


def test_watch_json_holds_the_curve(peftkit: Peftkit, runs: Path) -> None:
    run = next(runs.glob("lora-1-*"))
    code, out, err = peftkit("watch", str(run), "--json", "--by", "seconds")
    document = json.loads(out)
    assert (code, err, document["status"], document["by"]) == (0, "", "done", "seconds")
    assert document["curve"]["dev"][1] == {"cost": 2.0, "score": 0.6}
    (run / "evaluations.jsonl").unlink()
    assert json.loads(peftkit("watch", str(run), "--json")[1])["curve"] == {}
