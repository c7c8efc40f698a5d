from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from peftkit.cli import main
from peftkit.compare.across import compare_across_tasks
from peftkit.compare.output.across_pages import render
from peftkit.compare.output.figures import draw_figures
from peftkit.compare.output.table_formats import FORMATS
from tests.compare.across.conftest import BEST, read, runs
from tests.compare.conftest import Plant


@pytest.mark.parametrize("output_format", FORMATS)
def test_every_format_has_the_verdict_and_all_methods(output_format: str, plant: Plant, tmp_path: Path) -> None:
    file = tmp_path / "out"
    assert main(["compare", str(runs(plant, BEST)), "--across", "--format", output_format, "-o", str(file)]) == 0
    data = file.read_bytes()
    verdict = "Overall: lora (P > 99 %), by mean normalised score on 3 tasks with t5-base: cola, rte, sst2"
    if output_format in ("csv", "parquet"):
        rows: list[dict[str, Any]] = (
            pq.read_table(io.BytesIO(data)).to_pylist()
            if output_format == "parquet"
            else list(csv.DictReader(io.StringIO(data.decode())))
        )
        assert [row["method"] for row in rows] == ["lora", "full", "vera"]
        assert {row["verdict"] for row in rows} == {verdict}
        assert float(rows[1]["score_low"]) < float(rows[1]["score"]) < float(rows[1]["score_high"])
        assert float(rows[1]["improvement"]) > 0.9
    elif output_format == "json":
        [comparison] = json.loads(data)["across"]
        assert comparison["verdict"] == verdict
        assert [line["method"] for line in comparison["lines"]] == ["lora", "full", "vera"]
        assert len(comparison["thresholds"]) == len(comparison["lines"][0]["profile"])
        assert comparison["lines"][0]["profile"][0]["mean"] == 1.0
    else:
        text = data.decode()
        shown = [line for line in text.splitlines() if not line.startswith("%")]
        plain = " ".join(" ".join(shown).replace("\\", "").split())
        assert verdict in plain
        assert all(name in plain for name in BEST)


def test_the_table_starts_with_the_verdict_and_fits_80_columns(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs(plant, BEST | {"parallel_adapter": 0.55})), "--across"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("Overall: lora ")
    assert ["method", "score", "95", "%", "interval", "iqm", "rank", "P(best)", "cost"] in map(str.split, lines)
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("probability of improvement: lora over full: 1.00 (1.00 – 1.00)") for line in lines)


@pytest.mark.parametrize("words", [["--share", "0.5"], ["--budget", "3"], ["--regret"]])
def test_options_for_one_task_are_rejected_with_across(
    words: list[str], plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs(plant, BEST)), "--across", *words]) == 2
    assert words[0] in capsys.readouterr().err


def test_remarks_on_one_task_name_it(plant: Plant) -> None:
    path = runs(plant, BEST, ("cola", "rte"))
    runs(plant, {"ia3": 0.7}, ("rte",), device="cuda")
    remarks = compare_across_tasks(read(path, "hardware")).remarks
    assert any(text.startswith("training sample: held fixed") for text in remarks), "common remarks are shown once"
    assert any(text.startswith("rte with t5-base: pooled although hardware differs") for text in remarks)


@pytest.mark.slow
def test_the_performance_profile_is_drawn_and_the_table_written(plant: Plant, tmp_path: Path) -> None:
    groups = read(runs(plant, BEST, ("cola", "rte")))
    files = {file.name for file in draw_figures(groups, tmp_path / "figures", ["svg"])}
    assert {"across-profile.svg", "across.tex"} <= files
    picture = (tmp_path / "figures" / "across-profile.svg").read_text()
    assert all(f">{word}</text>" in picture for word in (*BEST, "normalised score", "2 tasks with t5-base: cola, rte"))
    assert "Overall: lora" in (tmp_path / "figures" / "across.tex").read_text()
    alone = {file.name for file in draw_figures(groups[:1], tmp_path / "alone", ["svg"])}
    assert not any(name.startswith("across") for name in alone)


def test_output_does_not_depend_on_the_order_of_runs(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, {"ia3": 0.8}, ("rte",))
    groups = read(path)
    assert render(compare_across_tasks(groups), "json") == render(compare_across_tasks(groups[::-1]), "json")
