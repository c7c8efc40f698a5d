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
from peftkit.compare.output.render import FORMATS
from tests.compare.across.conftest import BEST, read, runs
from tests.compare.conftest import Plant


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_has_the_verdict_and_all_methods(form: str, plant: Plant, tmp_path: Path) -> None:
    file = tmp_path / "out"
    assert main(["compare", str(runs(plant, BEST)), "--across", "--format", form, "-o", str(file)]) == 0
    data = file.read_bytes()
    verdict = "Overall: lora (P > 99 %), by mean normalised score on 3 tasks with t5-base: cola, rte, sst2"
    if form in ("csv", "parquet"):
        rows: list[dict[str, Any]] = (
            pq.read_table(io.BytesIO(data)).to_pylist()
            if form == "parquet"
            else list(csv.DictReader(io.StringIO(data.decode())))
        )
        assert [row["method"] for row in rows] == ["lora", "full", "vera"]
        assert {row["verdict"] for row in rows} == {verdict}
        assert float(rows[1]["score_low"]) < float(rows[1]["score"]) < float(rows[1]["score_high"])
        assert float(rows[1]["improvement"]) > 0.9
    elif form == "json":
        [found] = json.loads(data)["across"]
        assert found["verdict"] == verdict
        assert [line["method"] for line in found["lines"]] == ["lora", "full", "vera"]
        assert len(found["thresholds"]) == len(found["lines"][0]["profile"])
        assert found["lines"][0]["profile"][0]["mean"] == 1.0
    else:
        text = data.decode()
        shown = [line for line in text.splitlines() if not line.startswith("%")]
        plain = " ".join(" ".join(shown).replace("\\", "").split())
        assert verdict in plain
        assert all(name in plain for name in BEST)


def test_the_text_begins_with_the_verdict_and_its_table_fits_80_columns(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs(plant, BEST | {"parallel_adapter": 0.55})), "--across"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("Overall: lora ")
    assert ["method", "score", "95", "%", "interval", "iqm", "rank", "P(best)", "cost"] in map(str.split, lines)
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("probability of improvement: lora over full: 1.00 (1.00 – 1.00)") for line in lines)


@pytest.mark.parametrize("words", [["--share", "0.5"], ["--budget", "3"], ["--regret"]])
def test_what_does_not_go_with_it_is_refused(
    words: list[str], plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs(plant, BEST)), "--across", *words]) == 2
    assert words[0] in capsys.readouterr().err


def test_what_is_said_of_one_task_is_said_with_its_name(plant: Plant) -> None:
    path = runs(plant, BEST, ("cola", "rte"))
    runs(plant, {"ia3": 0.7}, ("rte",), device="cuda")
    remarks = compare_across_tasks(read(path, "hardware")).remarks
    assert any(text.startswith("training sample: held fixed") for text in remarks), "holds for all: said once"
    assert any(text.startswith("rte with t5-base: pooled although hardware differs") for text in remarks)


@pytest.mark.slow
def test_the_performance_profile_is_drawn_and_the_table_written(plant: Plant, tmp_path: Path) -> None:
    found = read(runs(plant, BEST, ("cola", "rte")))
    files = {file.name for file in draw_figures(found, tmp_path / "figures", ["svg"])}
    assert {"across-profile.svg", "across.tex"} <= files
    picture = (tmp_path / "figures" / "across-profile.svg").read_text()
    assert all(f">{word}</text>" in picture for word in (*BEST, "normalised score", "2 tasks with t5-base: cola, rte"))
    assert "Overall: lora" in (tmp_path / "figures" / "across.tex").read_text()
    alone = {file.name for file in draw_figures(found[:1], tmp_path / "alone", ["svg"])}
    assert not any(name.startswith("across") for name in alone)


def test_written_is_the_same_whatever_the_order_of_the_runs(plant: Plant) -> None:
    path = runs(plant, BEST)
    runs(plant, {"ia3": 0.8}, ("rte",))
    found = read(path)
    assert render(compare_across_tasks(found), "json") == render(compare_across_tasks(found[::-1]), "json")
