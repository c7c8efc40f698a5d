"""Comparisons in Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import peftkit
from peftkit.compare.comparison import compare
from peftkit.compare.matched_methods import load_groups
from peftkit.compare.output.table_formats import render
from peftkit.errors import InputError
from peftkit.example_tables import example_table, write_table
from tests.compare.conftest import Plant


@pytest.fixture
def runs(plant: Plant, tmp_path: Path) -> Path:
    for seed in (1, 2):
        plant("full", seed, [0.4, 0.7, 0.8])
        plant("lora", seed, [0.4, 0.6, 0.7 + 0.01 * seed], cost=0.5)
    return tmp_path / "runs"


def test_a_comparison_is_that_of_the_command(runs: Path) -> None:
    comparison = peftkit.compare_runs(runs, by="seconds")
    groups, _ = load_groups([runs])
    expected = compare(groups[0], by="seconds")
    assert comparison.verdict == expected.verdict
    assert repr(comparison) + "\n" == render([expected], "table").decode()
    assert "\n".join(expected.verdict.sentences) == repr(comparison.verdict)
    table = comparison.table
    assert table[table["kind"] == "method"]["method"].tolist() == ["full", "lora"]
    assert table["by"].unique().tolist() == ["seconds"]


def test_pandas_is_imported_for_tables_only(plant: Plant, tmp_path: Path) -> None:
    for method in ("full", "lora"):
        path = plant(method, 1, [0.5, 1.0], examples=2)
        row = {"loss": 1.0, "tokens": 1, "candidates": ("yes", "no"), "target": "yes", "prediction": "yes"}
        predictions = [{"index": 0, **row}, {"index": 1, **row}]
        tables = [example_table(step, split, predictions, whole=False) for step in (0, 1) for split in ("dev", "test")]
        write_table(tables, path / "examples.parquet")
    code = f"""
import sys, peftkit
comparison = peftkit.compare_runs({str(tmp_path)!r})
comparison.verdict, comparison._repr_html_(), repr(peftkit.load_runs({str(tmp_path)!r}))
print({{"pandas", "torch"}} & {{*sys.modules}})
comparison.table
print({{"pandas", "torch"}} & {{*sys.modules}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["set()", "{'pandas'}"], done.stderr


def test_runs_paths_and_folders_are_compared(runs: Path) -> None:
    loaded = peftkit.load_runs(runs)
    tables = [peftkit.compare_runs(each).table for each in (runs, str(runs), loaded, [run.path for run in loaded])]
    assert all(table.equals(tables[0]) for table in tables)
    assert len(peftkit.compare_runs(loaded[0]).table) == 1


def test_figures_and_the_report(runs: Path, tmp_path: Path) -> None:
    comparison: Any = peftkit.compare_runs(str(runs))
    assert [panel.get_title() for panel in comparison.plot().axes] == ["dev", "test"]
    assert comparison.plot("pareto")._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="no figure is called 'bars'"):
        comparison.plot("bars")
    with pytest.raises(InputError, match="does not grow in the course of a run"):
        peftkit.compare_runs(runs, by="peak_memory").plot()
    file = comparison.report(tmp_path / "new" / "report.html", title="<Title>")
    assert "&lt;Title&gt;" in file.read_text()


def test_several_tasks_are_iterated_over(runs: Path, plant: Plant) -> None:
    for seed in (1, 2):
        plant("<b>", seed, [0.4, 0.5], task="another", model="</p>")
    comparison = peftkit.compare_runs(runs)
    assert len(comparison) == 2
    with pytest.raises(InputError, match=r"of 2 tasks and models \(another with </p>, t with m\); iterate over"):
        comparison.verdict  # noqa: B018
    assert [part.verdict.task for part in comparison] == ["another", "t"]
    assert comparison.table["task"].unique().tolist() == ["another", "t"]
    page = comparison._repr_html_()
    assert "<td>&lt;b&gt;" in page
    assert "&lt;/p&gt;" in page


def test_skipped_runs_are_named(runs: Path) -> None:
    (runs / "broken").mkdir()
    (runs / "broken" / "recipe.toml").write_text("")
    comparison = peftkit.compare_runs(runs)
    assert len(comparison.skipped) == 1
    assert f"skipped: {comparison.skipped[0]}" in repr(comparison)
    assert "skipped: " in comparison._repr_html_()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "gmac"}, r"no cost is called 'gmac' \(did you mean 'gmacs'\?\)"),
        ({"pool": "hard_ware"}, r"pool: no check is called 'hard_ware' \(did you mean 'hardware'\?\)"),
        ({"margin": 0}, "margin: must be above 0, not 0"),
        ({"budgets": [1, float("nan")]}, "budgets: must be above 0, not nan"),
        ({"shares": [1.5]}, "shares: must be above 0 and at most 1, not 1.5"),
        ({"match": "size=3"}, "cannot match by 'size'"),
    ],
)
def test_invalid_arguments(options: dict[str, Any], message: str, runs: Path) -> None:
    with pytest.raises(InputError, match=message):
        peftkit.compare_runs(runs, **options)


def test_unfair_comparisons_are_rejected_unless_pooled(runs: Path, plant: Plant) -> None:
    plant("lora", 3, [0.4, 0.6], device="cuda", cost=0.5)
    with pytest.raises(InputError, match="are not comparable"):
        peftkit.compare_runs(runs)
    assert len(peftkit.compare_runs(runs, pool="hardware")) == 1


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished runs in"):
        peftkit.compare_runs(tmp_path)
