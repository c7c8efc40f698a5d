"""The verbs that read run directories: compare, advise, report, import, watch; and what a sweep says of its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Peftkit
from tests.compare.conftest import Plant, plant

__all__ = ["plant"]  # the fixture


@pytest.fixture
def runs(plant: Plant) -> Path:
    for seed in (1, 2, 3):
        plant("full", seed, [0.2, 0.3, 0.5], cost=2.0, examples=500)
        path = plant("lora", seed, [0.2, 0.6, 0.8 + seed / 100], examples=500)
    return path.parent


def test_compare_prints_and_writes(peftkit: Peftkit, runs: Path, tmp_path: Path) -> None:
    code, out, err = peftkit("compare", str(runs), "--share", "0.5", "--share", "0.9", "--budget", "1.5", "--wide")
    assert (code, err) == (0, "")
    assert "to 0.5 of full" in out
    assert "to 0.9 of full" in out
    assert "within 1.5 GMACs: lora (0.8" in out
    assert out.splitlines()[2].startswith("Use lora: accuracy 0.8"), "the verdict comes first"
    narrow = peftkit("compare", str(runs))[1]
    assert max(map(len, narrow.splitlines())) <= 80
    [found] = json.loads(peftkit("compare", str(runs), "--margin", "0.5", "--format", "json")[1])["comparisons"]
    assert (found["margin"], found["verdict"]["margin"]) == (0.5, 0.5)
    file = tmp_path / "table.parquet"
    assert peftkit("compare", str(runs), "--format", "parquet", "-o", str(file))[:2] == (0, "")
    assert file.read_bytes()[:4] == b"PAR1"
    code, _, err = peftkit("compare", str(runs), "--format", "parquet")
    assert code == 2
    assert "name a file with --output" in err
    code, _, err = peftkit("compare", str(runs), "-o", str(tmp_path / "none" / "x"))
    assert code == 1
    assert "cannot be written" in err
    for words, told in ((("--share", "1.5"), "at most 1"), (("--budget", "x"), "must be a number above 0")):
        code, _, err = peftkit("compare", str(runs), *words)
        assert code == 2
        assert told in err


def test_advise(peftkit: Peftkit, runs: Path) -> None:
    code, out, _ = peftkit("advise", str(runs), "--budget", "2gmacs")
    assert code == 0
    assert "Use lora within 2 GMACs: accuracy 0.8185" in out  # the expected score, a little below the mean of 0.82
    assert "It is the best of 2 methods: P > 99 %." in out
    assert "Full fine-tuning would add -0.51" in out
    code, out, _ = peftkit("advise", str(runs), "--budget", "2gmacs", "--memory", "1.5GiB", "--json")
    assert code == 1
    document = json.loads(out)
    assert document["format"] == 2
    [found] = document["advice"]
    assert found["verdict"]["use"] is None
    assert [each["method"] for each in found["candidates"]] == ["lora"]
    assert found["left_out"] == [["full", "its training took 2.00 GiB"]]
    assert peftkit("advise", str(runs), "--budget", "2gmac")[0] == 2


def test_report_writes_a_page_and_figures(peftkit: Peftkit, runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "out" / "page.html"
    code, out, _ = peftkit("report", str(runs), "-o", str(page), "--title", "Mine")
    assert (code, out) == (0, f"{page}\n")
    assert "<title>Mine</title>" in page.read_text()
    code, out, _ = peftkit("report", str(runs), "--figures", str(tmp_path / "figures"))
    assert code == 0
    written = {Path(line).name for line in out.splitlines()}
    assert {"t-m-curves-gmacs.svg", "t-m-pareto.svg", "t-m.tex"} <= written
    assert not any(name.endswith(".html") for name in written)


def test_watch_draws_the_curve_once_where_nobody_looks(peftkit: Peftkit, runs: Path) -> None:
    run = str(next(runs.glob("lora-1-*")))
    code, out, _ = peftkit("watch", run)
    assert code == 0
    assert "lora on t with m: done" in out
    assert "step 2: dev 0.8100, test 0.8100" in out
    assert any(0x2800 < ord(character) < 0x2900 for character in out)
    assert out.rstrip().splitlines()[-2].split() == ["0", "gmacs", "2"]
    code, _, err = peftkit("watch", run, "--metric", "f2")
    assert code == 2
    assert "has no metric 'f2'" in err
    assert peftkit("watch", str(runs))[0] == 2


def test_watch_shows_what_the_baselines_score(peftkit: Peftkit, runs: Path) -> None:
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


def test_watch_passes_over_what_is_no_number(peftkit: Peftkit, runs: Path) -> None:
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
    assert "nothing is evaluated yet" in out


def test_watch_follows_a_run_to_its_end(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from rich.console import Console

    from peftkit.cli import watching

    run = next(runs.glob("lora-1-*"))
    summary = (run / "summary.json").read_text()
    (run / "summary.json").unlink()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            (run / "summary.json").write_text(summary)

    monkeypatch.setattr(watching.time, "sleep", sleep)
    monkeypatch.setattr(watching, "Console", lambda: Console(force_terminal=True, width=80))
    assert watching.watch_run(str(run), by="gmacs", metric=None, once=False) == 0
    assert len(waited) == 3
    assert ": done" in capsys.readouterr().out


def test_import_prints_the_folders(peftkit: Peftkit, tmp_path: Path) -> None:
    rows = [
        {f"{split}_MulticlassAccuracy": 0.5 for split in ("dev", "test")}
        | {"dev_loss": 1.0, "test_loss": 1.0, "steps_done": 8, "epochs_done": 0, "time_in_train": 1.0, "GMACs": 2.0}
    ]
    file = tmp_path / "FT_ag_news.json"
    file.write_text(json.dumps(rows))
    code, out, _ = peftkit("import", "peft-by-time", str(file), "-o", str(tmp_path / "runs"))
    assert code == 0
    assert (Path(out.strip()) / "summary.json").is_file()
    code, _, err = peftkit("import", "peft-by-time", str(tmp_path / "x.json"))
    assert code == 2
    assert "cannot be read" in err


def test_a_sweep_that_is_wrong_is_told_with_code_2(peftkit: Peftkit, tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('name = "x"\nrecipe = "none.toml"\n[axes]\nseed = [1]\n')
    code, _, err = peftkit("sweep", str(file))
    assert code == 2
    assert "none.toml: there is no such file" in err
    code, _, err = peftkit("sweep", "plann", str(file))
    assert code == 2
    assert peftkit("sweep", "status", str(tmp_path / "no.toml"))[0] == 2


def test_a_plan_says_what_is_wrong_and_what_is_not_known(peftkit: Peftkit, tmp_path: Path) -> None:
    base = tmp_path / "base.toml"
    base.write_text(
        '[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_topic"\n[method]\nname = "lora"\n'
        "[train.budget]\nsteps = 2\n"
    )
    file, head = tmp_path / "sweep.toml", f'name = "x"\nrecipe = "base.toml"\noutput = "{tmp_path}"\n[axes]\n'
    file.write_text(f'{head}seed = [1, 2]\n[tune]\ntrials = 3\n[tune.space.lora]\n"train.learning_rte" = [0.1]\n')
    for verb in ("plan", "status", "run"):
        code, out, err = peftkit("sweep", verb, str(file))
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
