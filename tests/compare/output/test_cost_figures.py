"""Figures of costs on 3 and on 60 methods."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from peftkit.compare.comparison import Comparison, compare
from peftkit.compare.input.groups import RunGroup, group_runs
from peftkit.compare.input.load_runs import find_runs
from peftkit.compare.output.cost_figures import draw_costs, draw_pareto, training_memory
from peftkit.compare.output.figure_files import save_figure
from peftkit.compare.output.figure_style import figure_style
from tests.compare.conftest import Plant, planter

NAMES = ["full", "lora", *(f"method_{i}" + "_with_a_long_name" * (i % 9 == 0) for i in range(58))]


@pytest.fixture(scope="module", params=[3, 60])
def compared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunGroup, Comparison]:
    """A group of this many methods; neighbours have almost the same score and cost."""
    folder = tmp_path_factory.mktemp("runs")
    plant = planter(folder)
    for i, name in enumerate(NAMES[: request.param]):
        plant(name, 1, [0.2, 0.7 - 0.005 * (i // 4)], cost=1 + 0.1 * (i % 7), examples=50, constant=0.3)
    [group] = group_runs(find_runs([folder])[0])
    return group, compare(group)


def misplaced_labels(figure: Any) -> list[str]:
    """Labels that overlap another one, or leave the figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    labels = [text for panel in figure.axes for text in panel.texts if getattr(text, "arrow_patch", None)]
    boxes = {text: Text.get_window_extent(text, renderer) for text in labels}  # without their leader lines
    width, height = figure.bbox.size
    misplaced = [
        f"{text.get_text()} leaves the figure"
        for text, box in boxes.items()
        if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
    ]
    return misplaced + [
        f"{a.get_text()} is on {b.get_text()}"
        for (a, one), (b, other) in combinations(boxes.items(), 2)
        if one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1
    ]


@pytest.mark.slow
def test_labels_do_not_overlap_and_all_figures_have_a_title(compared: tuple[RunGroup, Comparison]) -> None:
    with figure_style():
        for name, figure in draw_costs(*compared):
            assert figure.get_suptitle().startswith("t with m: "), name
            if name in ("pareto", "speed"):
                labels = {text.get_text() for panel in figure.axes for text in panel.texts}
                assert labels >= {row.method for row in compared[1].lines}
                assert misplaced_labels(figure) == [], name


@pytest.mark.slow
def test_the_front_is_drawn_by_the_cost_of_runs(plant: Plant) -> None:
    for seed in (1, 2):
        plant("ia3", seed, [0.1, 0.3, 0.3], cost=0.2)
        plant("bitfit", seed, [0.1, 0.2, 0.1], cost=0.9)
        path = plant("lora", seed, [0.2, 0.7, 0.6], cost=1.0)  # its best checkpoint is not its last
    [group] = group_runs(find_runs([path.parent])[0])
    comparison = compare(group)
    assert comparison.fronts["gmacs"] == ("ia3", "lora")
    with figure_style():
        figure = draw_pareto(group, comparison)
        costs = {row.method: row.cost for row in comparison.lines}
        [front] = [line for line in figure.axes[0].lines if line.get_gid() == "front"]
        assert front.get_xdata()[:2].tolist() == [costs["ia3"], costs["lora"]]
        assert costs["lora"] == 2.0


@pytest.mark.slow
def test_methods_of_equal_cost_have_a_row_each(plant: Plant) -> None:
    for seed in (1, 2):
        plant("lora", seed, [0.2, 0.9])
        path = plant("ia3", seed, [0.2, 0.5], constant=0.3)
    [group] = group_runs(find_runs([path.parent])[0])
    with figure_style():
        figure = draw_pareto(group, compare(group))
    [panel] = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["ia3", "lora"], "the best on top"
    assert [text.get_text() for text in panel.texts] == [" constant"]
    assert "score at 1 – 1 GMACs" in figure.get_suptitle()


@pytest.mark.slow
def test_pgf_needs_no_latex_and_escapes_names(compared: tuple[RunGroup, Comparison], tmp_path: Path) -> None:
    with figure_style():
        [file] = save_figure(draw_pareto(*compared), tmp_path / "pareto", ["pgf"])
    text = file.read_text(encoding="utf-8")
    assert text.count(r"\begin{pgfscope}") == text.count(r"\end{pgfscope}") > 10
    assert r"method\_0\_with" in text
    assert r"95 \% intervals" in text


def test_memory_of_training_is_apart_from_the_process() -> None:
    host = {"peak_host_bytes": 900.0, "host_bytes_before_training": 600.0}
    assert training_memory([host, {**host, "peak_host_bytes": 1100.0}]) == 400.0
    assert training_memory([{**host, "peak_device_bytes": 250.0}]) == 250.0, "an accelerator holds only the training"
    assert training_memory([host, {"peak_host_bytes": 900.0}]) is None
