"""What methods learn and forget is written in every format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from peftkit.cli import main


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
