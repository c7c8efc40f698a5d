"""What methods learn and forget is written in every format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from peftkit.cli import main
from peftkit.compare.comparison import compare
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.output.report_data import collect_data
from peftkit.compare.output.report_terms import TERMS


@pytest.mark.parametrize("form", ["table", "json", "csv", "latex", "markdown"])
def test_compare_shows_both_axes(form: str, probed_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(probed_runs), "--probe", "texts", "--format", form]) == 0
    text = capsys.readouterr().out
    if form == "json":
        [document] = json.loads(text)["retention"]
        assert document["probe_metric"] == "bits_per_byte"
        assert {row["method"] for row in document["methods"]} == {"full", "ia3"}
        assert set(document["front"]) <= {"full", "ia3"}
    elif form == "csv":
        rows = [*csv.DictReader(io.StringIO(text))]
        assert [row["probe"] for row in rows] == ["texts", "texts"]
    else:
        assert "forgotten" in text
        assert "P(front)" in text


def test_costs_and_probes_are_not_mixed(probed_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(probed_runs), "--probe", "texts", "--wide"]) == 2
    assert "cannot be used with --probe" in capsys.readouterr().err


def test_figures_show_paths_of_learning_and_forgetting(probed_runs: Path, tmp_path: Path) -> None:
    assert main(["report", str(probed_runs), "--figures", str(tmp_path)]) == 0
    for probe in ("texts", "choices"):
        [figure] = tmp_path.glob(f"*forgetting-{probe}.svg")
        assert f"forgotten on {probe}" in figure.read_text()


def test_the_report_has_what_is_learned_and_forgotten(probed_group: RunGroup) -> None:
    [section] = collect_data([probed_group], [compare(probed_group)], TERMS)["sections"]
    assert {*section["retention"]} == {"texts", "choices"}
    rows = {row["label"]: row for row in section["retention"]["texts"]["rows"]}
    assert {*rows} == {"full", "ia3"}
    for row in rows.values():
        assert row["forgotten_low"] <= row["forgotten"] <= row["forgotten_high"]
        assert row["low"] <= row["score"] <= row["high"]
