"""An objective of a plugin goes through the whole program: its kind of task is unknown to the core."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import peftkit
from peftkit import hookimpl
from peftkit.cli import main

pytestmark = pytest.mark.usefixtures("regression_plugin")


@pytest.fixture
def recipe(models: dict[str, Path], tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
        [run]
        output = "{(tmp_path / "runs").as_posix()}"
        [model]
        name = "{models["encoder"].as_posix()}"
        [task]
        name = "shades"
        [method]
        name = "full"
        [train]
        batch_size = 8
        learning_rate = 3e-3
        [train.budget]
        steps = 60
        [track]
        to = []
        """,
        encoding="utf-8",
    )
    return path


def peftkit_(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> str:
    code = main([str(each) for each in arguments])
    streams = capsys.readouterr()
    assert code == 0, streams.err
    return streams.out


def test_the_objective_is_listed_shown_and_checked(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "brightness_head" in peftkit_("list", "objectives", capsys=capsys)
    shown = peftkit_("show", "brightness_head", capsys=capsys)
    assert "brightness" in shown
    assert "The weight of each error." in shown
    assert "OK (full on shades" in peftkit_("check", recipe, capsys=capsys)


@pytest.mark.slow
def test_it_trains_compares_reports_verifies_and_predicts(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in ("full", "lora"):
        for seed in (1, 2):
            peftkit_("run", recipe, "--set", f"method.name={method}", "--set", f"run.seed={seed}", capsys=capsys)
    runs = sorted((tmp_path / "runs").iterdir())
    summaries = [json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in runs]
    assert {summary["objective"] for summary in summaries} == {"brightness_head"}
    assert all(summary["cost"]["gmacs"] > 0 for summary in summaries)
    for summary in (each for each in summaries if each["method"] == "full"):
        assert summary["selected"]["dev"]["distance"] < summary["baselines"]["constant"]["dev"]["distance"]
    comparison = peftkit_("compare", *runs, capsys=capsys)
    assert "distance" in comparison
    assert "full" in comparison
    peftkit_("report", *runs, "-o", tmp_path / "report.html", capsys=capsys)
    assert "distance" in (tmp_path / "report.html").read_text(encoding="utf-8")
    verified = peftkit_("verify", runs[0], capsys=capsys)
    assert "generated texts" not in verified
    (tmp_path / "rows.jsonl").write_text('{"thing": "ink"}\n{"thing": "sky sky"}\n', encoding="utf-8")
    predictions = peftkit_("predict", runs[0], "--file", tmp_path / "rows.jsonl", capsys=capsys)
    numbers = [float(json.loads(line)["prediction"]) for line in predictions.splitlines()]
    assert len(numbers) == 2
    assert numbers[0] != numbers[1]


def test_its_cost_is_estimated_and_its_rows_are_previewed(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "MACs" in peftkit_("cost", recipe, capsys=capsys)
    preview: Any = json.loads(peftkit_("task", "preview", recipe, "--json", capsys=capsys))
    assert preview["task_kind"] == "brightness"


def test_a_table_sets_its_options_and_a_wrong_one_is_an_error(recipe: Path) -> None:
    loaded = peftkit.load_recipe(recipe, ["objective.name=brightness_head", "objective.weight=2.0"])
    assert (
        loaded.objective
        == peftkit.Recipe.build(extends=recipe, objective=peftkit.objective("brightness_head", weight=2.0)).objective
    )
    with pytest.raises(
        peftkit.RecipeError, match="'label_ranking' is for classification tasks, and 'shades' is brightness"
    ):
        peftkit.load_recipe(recipe, ["objective.name=label_ranking"])
    with pytest.raises(peftkit.RecipeError, match=r"use one of kind encoder"):
        peftkit.load_recipe(recipe, ["model.name=pocket-decoder"])


def test_without_its_objective_a_task_is_an_error(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.regression_plugin.register_objectives", hookimpl(lambda: []))
    with pytest.raises(peftkit.RecipeError, match="no installed objective is for tasks of the kind 'brightness' of"):
        peftkit.load_recipe(recipe)
