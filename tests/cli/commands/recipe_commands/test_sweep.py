from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from peftkit.errors import RunInterrupted
from peftkit.sweep.scheduler import Failure, Sweep
from peftkit.sweep.within.run_times import Probe
from peftkit.sweep.within.time_plan import TimePlan
from tests.cli.conftest import VALID, Peftkit


def test_an_invalid_sweep_exits_with_2(peftkit: Peftkit, tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('name = "x"\nrecipe = "none.toml"\n[axes]\nseed = [1]\n')
    code, _, err = peftkit("sweep", str(file))
    assert code == 2
    assert "none.toml: file not found" in err
    code, _, err = peftkit("sweep", "plann", str(file))
    assert code == 2
    assert peftkit("sweep", "status", str(tmp_path / "no.toml"))[0] == 2


@pytest.mark.slow
def test_a_plan_reports_problems_and_unknown_numbers(peftkit: Peftkit, tmp_path: Path) -> None:
    base = tmp_path / "base.toml"
    base.write_text(
        '[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_topic"\n[method]\nname = "lora"\n'
        "[train.budget]\nsteps = 2\n"
    )
    file, head = tmp_path / "sweep.toml", f'name = "x"\nrecipe = "base.toml"\noutput = "{tmp_path}"\n[axes]\n'
    file.write_text(f'{head}seed = [1, 2]\n[tune]\ntrials = 3\n[tune.space.lora]\n"train.learning_rte" = [0.1]\n')
    for action in ("plan", "status", "run"):
        code, out, err = peftkit("sweep", action, str(file))
        assert (code, out) == (2, "")
        assert "did you mean 'learning_rate'" in err
    file.write_text(f'{head}seed = [1]\nmodel = ["pocket-t5", "someone/away"]\n')
    code, out, _ = peftkit("sweep", "plan", str(file), "--no-trial")
    lines = out.splitlines()
    assert code == 1
    assert "someone/away" in lines[2]
    assert "cannot be loaded" in lines[2]
    assert lines[-1].startswith("2 studies, 2 runs")
    assert lines[-1].endswith(" and more")
    assert json.loads(peftkit("sweep", "plan", str(file), "--no-trial", "--json")[1])["seconds"] is None


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    folder = tmp_path / "my sweeps"
    folder.mkdir()
    (folder / "base.toml").write_text(VALID, encoding="utf-8")
    text = f'name = "s"\nrecipe = "base.toml"\noutput = "{tmp_path.as_posix()}/my runs"\n[axes]\nseed = [1, 2]\n'
    (folder / "sweep.toml").write_text(text, encoding="utf-8")
    return folder / "sweep.toml"


def test_sweep_quiet_prints_no_progress(
    sweep_file: Path, peftkit: Peftkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure("seed 1", "log.txt", ("it failed",))
    monkeypatch.setattr(Sweep, "run", lambda self: [failure])
    folder = tmp_path / "my runs" / "s"
    code, out, err = peftkit("sweep", "run", str(sweep_file))
    assert code == 1
    assert out.startswith(f"s: 2 runs in {folder}, 1 at a time\n")
    assert err == "failed: seed 1: log.txt\n    it failed\n"
    assert peftkit("sweep", "run", str(sweep_file), "-q") == (1, f"{folder}\n", err)
    code, out, progress = peftkit("sweep", "run", str(sweep_file), "--json")
    document = json.loads(out)
    assert (code, document["folder"], document["runs"]) == (1, str(folder), 2)
    assert document["failures"] == [{"label": "seed 1", "log": "log.txt", "last_lines": ["it failed"]}]
    assert progress.startswith("s: 2 runs in ")
    assert progress.endswith(err)


def test_an_interrupted_sweep_prints_the_command_that_resumes_it(
    sweep_file: Path, peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Sweep) -> Any:
        raise RunInterrupted("the sweep was stopped", 15)

    monkeypatch.setattr(Sweep, "run", interrupt)
    words = ["sweep", str(sweep_file), "--set", "train.batch_size=4", "-q"]
    code, out, err = peftkit(*words)
    assert (code, out) == (143, "")
    message, _, command = err.rstrip("\n").partition("; resume with: ")
    assert message == "interrupted"
    assert shlex.split(command) == ["peftkit", *words]


PROGRESS = {"steps": 16, "samples": 64, "tokens": 900, "epochs": 0.02, "seconds": 4.0, "gmacs": 2.0, "joules": 0.0}
PROBE = Probe(9.0, 4.0, 4.0, 1.0, 1, PROGRESS, 250)


def test_a_sweep_is_planned_within_a_time(sweep_file: Path, peftkit: Peftkit, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(self: TimePlan, workers: Any, say: Any) -> None:
        self.state["probes"] = {study.label: {"recipe": "", **vars(PROBE)} for study in self.grid.studies}

    monkeypatch.setattr(TimePlan, "measure", measure)
    words = ("sweep", "plan", str(sweep_file), "--within")
    code, out, _ = peftkit(*words, "1min30s")
    assert code == 0
    first, *_, last = out.splitlines()
    assert re.fullmatch(r"within 90s: 2 seeds and 0\.\d+ of the budget for each of 1 studies", first)
    assert re.fullmatch(r"that takes about \d+s, 1 at a time", last)
    document = json.loads(peftkit(*words, "1h", "--json")[1])
    assert (document["within"], document["trials"], document["seeds"], document["budget_share"]) == (3600, 0, 2, 1)
    code, out, err = peftkit(*words, "5s")
    assert (code, out) == (2, "")
    assert (
        "5s are left, which is not enough: the least that separates methods (2 seeds of each of 1 studies, with " in err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--within", "soon"), "'soon' must be a duration above zero in h, min and s"),
        (("--within", "1h", "--executor", "slurm"), "cannot be combined with --executor slurm"),
        (("--within", "1h", "--no-trial"), "needs to know how long runs take"),
    ],
)
def test_a_time_that_cannot_be_planned_is_an_error(
    sweep_file: Path, peftkit: Peftkit, words: tuple[str, ...], message: str
) -> None:
    code, out, err = peftkit("sweep", "plan", str(sweep_file), *words)
    assert (code, out) == (2, "")
    assert message in err
