"""The benchmark of training keeps what it has measured, continues where it stopped, and writes a table."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"
BERT = ["--model", "bert", "--method", "full", "--lengths", "short", "--steps", "1", "--clock", "cpu"]


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    import training_results  # type: ignore[import-not-found]

    module: ModuleType = training_results
    return module


def test_measurements_of_one_setting_are_read_back_and_rendered(tmp_path: Path, results: ModuleType) -> None:
    file, page = tmp_path / "speed.jsonl", tmp_path / "costs.md"
    cells = [results.Cell("t5", "lora", lengths) for lengths in ("short", "even")]
    for setting in ("time per step, a", "time per step, b"):
        kept = results.Results(file, setting)
        assert not kept.measurements
        for ratio in (1.0, 2.0, 4.0):
            kept.add(results.Measurement(cells[0], setting, seconds=(0.5, 0.5 * ratio)))
        kept.add(results.Measurement(cells[1], setting, seconds=(1.0, 8.0)))
        kept.add(results.Measurement(cells[0], setting, peaks=(2**20, 2**22)))
    again = results.Results(file, "time per step, b")
    assert again.pairs(cells[0]) == [(0.5, 0.5), (0.5, 1.0), (0.5, 2.0)]
    assert again.peaks(cells[0]) == (2**20, 2**22)
    assert again.peaks(cells[1]) is None
    page.write_text("before\n<!-- speed -->\nold\n<!-- end of speed -->\nafter\n", encoding="utf-8")
    results.write_table(file, page, "speed")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- speed -->\n")
    assert text.endswith("<!-- end of speed -->\nafter\n")
    assert "old" not in text
    assert text.count("| t5 | lora | short | 0.500 | 1.000 | 2.00 | 1.00 to 4.00 | 3 | 1 of 4 MiB |") == 2
    assert text.count("short 2.00, all cells 4.00") == 2


@pytest.mark.slow
def test_an_interrupted_benchmark_goes_on(
    tmp_path: Path, results: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import benchmark_training  # type: ignore[import-not-found]

    file = tmp_path / "speed.jsonl"
    for pairs in (1, 2, 2):
        options = ["--pairs", str(pairs), "--results", str(file), "--set", "train.split_batches=true"]
        monkeypatch.setattr(sys, "argv", ["benchmark_training.py", *BERT, *options])
        benchmark_training.main()
        assert len(file.read_text(encoding="utf-8").splitlines()) == pairs
    assert "peftkit with `train.split_batches=true`" in capsys.readouterr().out
