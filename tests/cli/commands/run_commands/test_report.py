from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.commands.conftest import raise_score
from tests.cli.conftest import Peftkit


@pytest.mark.slow
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


@pytest.mark.slow
def test_report_verified_shows_the_verification(peftkit: Peftkit, finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "mine")
    run, page = str(tmp_path / "mine"), tmp_path / "page.html"
    assert peftkit("report", run, "-o", str(page))[0] == 0
    assert "Verification" not in page.read_text()
    code, _, err = peftkit("report", run, "-o", str(page), "--verified")
    assert (code, err) == (0, "")
    text = page.read_text()
    assert '<th scope="row">lora</th><td>42</td><td>mine</td><td>all ' in text
    assert "recomputed values agree</td><td>" in text
    assert "memory is measured during training" in text
    assert "Not verified" not in text
    raise_score(tmp_path / "mine")
    code, out, err = peftkit("report", run, "-o", str(page), "--verified", "--metric", "loss")
    assert (code, out) == (1, f"{page}\n")
    assert err.startswith(f"{tmp_path / 'mine'}: 4 of ")
    assert "recomputed values differ: selection test accuracy, selected test accuracy, " in err
    assert "recorded values of 1 of 1 runs differ from the recomputed ones" in page.read_text()
    code, _, err = peftkit("report", run, "--figures", "figures", "--verified")
    assert code == 2
    assert "--verified needs a page: name one with --output" in err
