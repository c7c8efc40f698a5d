from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.compare.figures import draw
from peftkit.compare.gather import find_runs, sections
from tests.compare.conftest import Plant


@pytest.mark.slow
def test_all_figures_and_the_table_are_written_and_alike_each_time(plant: Plant, tmp_path: Path) -> None:
    for seed in (1, 2):
        plant("full", seed, [0.2, 0.4, 0.6], cost=2.0)
        path = plant("lora", seed, [0.2, 0.5, 0.7])
    found = sections(find_runs([path.parent])[0])
    files = draw(found, tmp_path / "figures", ["svg", "png", "pdf"])
    names = {file.name for file in files}
    kinds = [f"curves-{axis}" for axis in ("gmacs", "seconds", "samples", "tokens")]
    kinds += ["gmacs-per-step", "gmacs-per-step-relative", "speed", "memory", "pareto"]
    assert names == {f"t-m-{kind}.{form}" for kind in kinds for form in ("svg", "png", "pdf")} | {"t-m.tex"}
    assert all(file.stat().st_size > 500 for file in files)
    curves = (tmp_path / "figures" / "t-m-curves-gmacs.svg").read_text()
    assert all(f">{word}</text>" in curves for word in ("dev", "test", "lora", "full", "GMACs", "accuracy"))
    assert ">train</text>" not in curves, "nothing was evaluated on it"
    assert r"\toprule" in (tmp_path / "figures" / "t-m.tex").read_text()
    again = draw(found, tmp_path / "again", ["svg"])
    assert all((tmp_path / "figures" / file.name).read_bytes() == file.read_bytes() for file in again)
