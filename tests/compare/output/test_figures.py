from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from peftkit.compare.input.groups import group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.output.figures import draw_figures
from tests.compare.conftest import Plant


@pytest.mark.slow
def test_figures_and_table_are_written_reproducibly(plant: Plant, tmp_path: Path) -> None:
    for seed in (1, 2):
        plant("full", seed, [0.2, 0.4, 0.6], cost=2.0)
        path = plant("lora", seed, [0.2, 0.5, 0.7])
    groups = group_runs(find_runs([path.parent])[0])
    files = draw_figures(groups, tmp_path / "figures", ["svg", "png", "pdf", "pgf"])
    names = {file.name for file in files}
    kinds = [f"curves-{axis}" for axis in ("gmacs", "seconds", "samples", "tokens")]
    kinds += ["gmacs-per-step", "gmacs-per-step-relative", "speed", "memory", "pareto"]
    assert names == {f"t-m-{kind}.{form}" for kind in kinds for form in ("svg", "png", "pdf", "pgf")} | {"t-m.tex"}
    assert all(file.stat().st_size > 500 for file in files)
    curves = (tmp_path / "figures" / "t-m-curves-gmacs.svg").read_text()
    assert all(f">{word}</text>" in curves for word in ("dev", "test", "lora", "full", "GMACs", "accuracy"))
    assert ">train</text>" not in curves, "train was not evaluated"
    assert r"\toprule" in (tmp_path / "figures" / "t-m.tex").read_text()
    again = draw_figures(groups, tmp_path / "again", ["svg", "pgf"])
    assert all((tmp_path / "figures" / file.name).read_bytes() == file.read_bytes() for file in again)


@pytest.mark.slow
def test_recorded_baselines_are_dotted_lines(plant: Plant, tmp_path: Path) -> None:
    for seed in (1, 2):
        plant("full", seed, [0.2, 0.4, 0.6], cost=2.0)
        path = plant("lora", seed, [0.2, 0.5, 0.7])
    draw_figures(group_runs(find_runs([path.parent])[0]), tmp_path / "without", ["svg"])
    for folder in path.parent.iterdir():
        summary = json.loads((folder / "summary.json").read_text())
        random = 0.3 + summary["seed"] / 100
        scores = {"constant": 0.45, "majority": 0.31, "random": random}
        summary["baselines"] = {name: {"test": {"accuracy": score}} for name, score in scores.items()}
        summary["baselines"]["constant"]["dev"] = {"accuracy": 0.41}
        (folder / "summary.json").write_text(json.dumps(summary))
    draw_figures(group_runs(find_runs([path.parent])[0]), tmp_path / "with", ["svg"])

    def words(folder: str, figure: str) -> list[str]:
        return re.findall(r">([a-z, ]+)</text>", (tmp_path / folder / f"t-m-{figure}.svg").read_text())

    for figure, labels in (("curves-gmacs", 3), ("pareto", 2)):
        assert not {"constant", "majority, random"} & {*words("without", figure)}
        labelled = [word for word in words("with", figure) if word in ("constant", "majority, random")]
        assert len(labelled) == labels, "one for dev and one for test"
    assert words("with", "memory") == words("without", "memory")
