"""Synthetic rows in the hub's layout, and the CI stage that runs a hub recipe on them."""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe
from peftkit.run_directory import RunDirectory
from peftkit.train.run import run

ROOT = Path(__file__).parents[2]
COLUMNS = ["id", "question", "question_concept", "choices", "answerKey"]


def script(name: str) -> Any:
    spec = spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(ROOT / "scripts"))  # scripts import each other
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    script("commonsense_fixture").write(tmp_path / "cqa")
    return tmp_path / "cqa"


def test_the_fixture_has_the_files_and_columns_of_the_hub(folder: Path) -> None:
    files = {file.name: Dataset.from_parquet(str(file)) for file in sorted((folder / "data").iterdir())}
    assert [*files] == [f"{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")]
    for name, rows in files.items():
        assert rows.column_names == COLUMNS
        for row in rows:
            assert row["choices"]["label"] == ["A", "B", "C", "D", "E"]
            assert len(set(row["choices"]["text"])) == 5
            assert row["answerKey"] in ([""] if name.startswith("test") else row["choices"]["label"])
    ids = [row["id"] for rows in files.values() for row in rows]
    assert len(set(ids)) == len(ids) == 80


def test_correct_answers_have_every_letter(folder: Path) -> None:
    rows = Dataset.from_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    assert set(rows["answerKey"][:]) == {*"ABCDE"}


@pytest.mark.parametrize("name", ["cqa_adapters", "commonsense_qa/lora"])
def test_hub_recipes_train_on_the_fixture(name: str, folder: Path, models: dict[str, Path], tmp_path: Path) -> None:
    registry = load_registry()
    method = "parallel_adapters" if name == "cqa_adapters" else "lora"
    path = ROOT / "recipes" / f"{name}.toml"
    dev = script("dev")
    keys = [*dev.SHORT, f"task.path={folder}", f"model.name={models['encoder-decoder']}", "track.to=[]"]
    if method not in registry.all("method"):  # without the plugin, test the rest of the recipe
        keys.append('method={name = "lora"}')
    done = run(load_recipe(path, registry, [*keys, f"run.output={tmp_path / 'runs'}"]), registry)
    assert done is not None
    summary = RunDirectory(done).summary()
    assert (summary["status"], summary["steps"], summary["task"]) == ("done", dev.STEPS, "commonsense_qa")
    assert summary["rows"] == {"train": 53, "dev": 3, "test": 16}


@pytest.mark.parametrize("status", ["done", "failed"])
def test_the_matrix_stage_launches_the_recipe_and_checks_its_status(
    status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev = script("dev")
    commands: list[str] = []

    def ran(self: Any, tool: str, *words: str, **variables: str) -> None:
        commands.append(" ".join((tool, *words)))
        if tool == "accelerate":
            summary = tmp_path / "cqa_adapters" / "run" / "summary.json"
            summary.parent.mkdir(parents=True)
            summary.write_text(json.dumps({"status": status, "steps": dev.STEPS}))

    monkeypatch.setattr(dev.Environment, "run", ran)
    if status == "failed":
        with pytest.raises(dev.StageError, match=r"cqa_adapters\.toml is failed after 3 steps"):
            dev.launch_on_fixture(dev.ADAPTERS, tmp_path)
        return
    dev.launch_on_fixture(dev.ADAPTERS, tmp_path)
    launch = "accelerate launch -m peftkit recipes/cqa_adapters.toml"
    assert commands[1].startswith(f"{launch} --set ")
    assert f"--set task.path={tmp_path / 'commonsense_qa'}" in commands[1]
    assert launch in (ROOT / "docs" / "peft-by-time.md").read_text(encoding="utf-8")
