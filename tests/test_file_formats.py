"""Recipes and run directories of older formats are read with the current keys."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from peftkit.errors import RecipeError
from peftkit.example_tables import LABELS, to_prediction_rows
from peftkit.file_formats import CHECKPOINT_FORMAT, RECIPE_FORMAT, RUN_FORMAT
from peftkit.plugins import Registry, load_registry
from peftkit.recipe import load_recipe
from peftkit.recipe.load_recipe import _warn_of_old_keys
from peftkit.run_directory import RunDirectory
from peftkit.train import checkpoint
from peftkit.train.budget import NOT_SAVED, Progress

BASE = '[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_mcq"\n[method]\nname = "lora"\n'
OLD = """\
[train]
cut_targets = 0.5
[evaluate]
selects = "loss"
whole = false
[track]
wandb = "online"
tensorboard = true
project = "p"
"""
NEW = """\
[train]
truncate_targets = 0.5
[evaluate]
selection_metric = "loss"
full_splits = false
[track]
to = ["wandb", "tensorboard"]
wandb.mode = "online"
project = "p"
"""


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    _warn_of_old_keys.cache_clear()


@pytest.mark.parametrize("declared", ["", "format = 1\n"])
def test_a_recipe_of_format_1_equals_its_rewritten_form(
    declared: str, folder: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "old.toml").write_text(declared + BASE + OLD)
    (folder / "new.toml").write_text(f"format = {RECIPE_FORMAT}\n" + BASE + NEW)
    new = load_recipe("new.toml", registry)
    assert caplog.records == []
    assert load_recipe("old.toml", registry) == new
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    first = 8 + len(declared.splitlines())
    assert record.getMessage().splitlines()[1:] == [
        f"  old.toml:{first}: train.cut_targets is now: train.truncate_targets = 0.5",
        f'  old.toml:{first + 2}: evaluate.selects is now: evaluate.selection_metric = "loss"',
        f"  old.toml:{first + 3}: evaluate.whole is now: evaluate.full_splits = false",
        f'  old.toml:{first + 5}: track.wandb is now: track.to = ["wandb", "tensorboard"]; track.wandb.mode = "online"',
        f'  old.toml:{first + 6}: track.tensorboard is now: track.to = ["wandb", "tensorboard"]',
    ]
    load_recipe("old.toml", registry)
    assert len(caplog.records) == 1, "shown once"


@pytest.mark.parametrize(
    ("base", "overrides", "trackers"),
    [
        ("", [], ("wandb",)),
        ('wandb = "off"', [], ()),
        ("tensorboard = true", [], ("wandb", "tensorboard")),
        ("tensorboard = true", ["track.wandb=off"], ("tensorboard",)),
        ('to = ["tensorboard"]', ["track.wandb=offline"], ("wandb", "tensorboard")),
        ('to = ["tensorboard"]', ["track.tensorboard=false"], ()),
        ('wandb = "off"', ['track.to=["wandb"]'], ("wandb",)),
    ],
)
def test_format_1_trackers_change_the_list_of_the_base(
    base: str, overrides: list[str], trackers: tuple[str, ...], folder: Path, registry: Registry
) -> None:
    (folder / "base.toml").write_text(f"{BASE}[track]\n{base}\n")
    (folder / "x.toml").write_text('extends = "base.toml"\n')
    assert load_recipe("x.toml", registry, overrides).track.to == trackers


def test_old_keys_are_errors_in_a_recipe_of_the_current_format(folder: Path, registry: Registry) -> None:
    (folder / "x.toml").write_text(f"format = {RECIPE_FORMAT}\n" + BASE + OLD)
    with pytest.raises(RecipeError) as error:
        load_recipe("x.toml", registry)
    assert [p.key for p in error.value.problems] == [
        "train.cut_targets",
        "evaluate.selects",
        "evaluate.whole",
        "track.wandb",
        "track.tensorboard",
    ]


def test_an_error_in_an_old_key_has_its_line(folder: Path, registry: Registry) -> None:
    (folder / "x.toml").write_text(BASE + "[train]\ncut_targets = 2\n")
    with pytest.raises(RecipeError, match=r"x\.toml:8: train\.truncate_targets: must be a number"):
        load_recipe("x.toml", registry)


def test_a_run_of_an_old_format_is_read_with_the_current_keys(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    files: dict[str, dict[str, Any]] = {
        "summary.json": {
            "format": 2,
            "status": "done",
            "selects": "loss",
            "rows_a_pass": 4,
            "rows_cut": {"dev": {"sources": 1, "targets": 0}},
            "rows_left_out_per_epoch": 3,
            "rows_also_in_train": {"dev": 2},
        },
        "environment.json": {
            "format": 1,
            "variables": {"A": "1"},
            "variables_without_effect": {"B": "2"},
            "generation_without_effect": {},
            "resumed": [{"variables": {"A": "3"}}],
        },
        "tuning.json": {"format": 1, "selects": "loss", "trials": 3},
    }
    for name, document in files.items():
        (folder / name).write_text(json.dumps(document))
    (folder / "evaluations.jsonl").write_text('{"format": 1, "step": 0}\n')
    (folder / "recipe.toml").write_text("format = 1\n" + BASE + OLD)
    run = RunDirectory(folder)
    assert run.summary() == {
        "format": RUN_FORMAT,
        "status": "done",
        "selection_metric": "loss",
        "microbatch_size": 4,
        "rows_truncated": {"dev": {"sources": 1, "targets": 0}},
        "rows_dropped_per_epoch": 3,
        "train_overlap": {"dev": 2},
    }
    assert run.environment() == {
        "format": RUN_FORMAT,
        "environment_variables": {"A": "1"},
        "ignored_environment_variables": {"B": "2"},
        "ignored_generation_config": {},
        "resumed": [{"environment_variables": {"A": "3"}}],
    }
    assert run.read_json("tuning.json") == {"format": RUN_FORMAT, "selection_metric": "loss", "trials": 3}
    assert run.evaluations() == [{"format": RUN_FORMAT, "step": 0}]
    recipe = run.recipe()
    assert recipe["format"] == RECIPE_FORMAT
    assert recipe["evaluate"] == {"selection_metric": "loss", "full_splits": False}
    assert recipe["track"] == {"to": ["wandb", "tensorboard"], "wandb": {"mode": "online"}, "project": "p"}
    load_recipe(folder / "recipe.toml", load_registry())
    assert caplog.records == [], "nobody edits the recipe of a run"


def test_scores_per_example_of_format_2_are_read(folder: Path) -> None:
    (folder / "examples").mkdir()
    columns = {"step": [0], "split": ["dev"], "whole": [False], "index": [0], "group": [""]}
    columns |= {"loss": [1.0], "tokens": [1]}
    pq.write_table(pa.table(columns, metadata={LABELS: '["a"]'}), folder / "examples.parquet")
    table = RunDirectory(folder).examples()
    assert table is not None
    assert table.column_names == ["step", "split", "full_split", "index", "group", "loss", "tokens"]
    assert to_prediction_rows(table)[0]["candidates"] == ["a"]


def test_a_checkpoint_of_format_1_is_read_with_the_current_keys(folder: Path) -> None:
    progress = dict.fromkeys(("step", "samples", "input_tokens", "target_tokens", "seconds", "macs", "joules"), 1)
    old: dict[str, Any] = {
        "evaluated": True,
        "inputs": {},
        "processes": 1,
        "used": {**progress, "passes": 1, "steps_of_pass": 2},
        "marks": 1,
        "saves": 2,
        "losses": [1.0],
        "targets": 3,
        "evaluations": 1,
        "evaluations_digest": "",
        "selected": 0,
        "evaluation_seconds": 1.0,
        "counting_seconds": 1.0,
        "meters": {},
        "optimizer": {},
        "scaler": None,
        "resumed": [],
        "skipped": 0,
        "rows_a_pass": 8,
    }
    checkpoint.write_checkpoint(folder, 4, {"w": torch.ones(1)}, {}, {}, old, keep=1)
    file = folder / "step-00000004/state.json"
    document = json.loads(file.read_text())
    assert document["format"] == CHECKPOINT_FORMAT
    file.write_text(json.dumps(document | {"format": 1}))
    saved = checkpoint.latest_checkpoint(folder)
    assert saved is not None
    assert saved.state["progress"].keys() == {f.name for f in fields(Progress)} - {*NOT_SAVED}
    assert saved.state["progress"]["completed_epochs"] == 1
    assert saved.state.keys() == {
        "evaluation_done",
        "inputs",
        "processes",
        "progress",
        "evaluation_trigger",
        "checkpoint_trigger",
        "step_losses",
        "step_targets",
        "evaluations",
        "evaluations_digest",
        "selected_evaluation",
        "evaluation_seconds",
        "counting_seconds",
        "meters",
        "optimizer",
        "scaler",
        "resumed_after_steps",
        "steps_skipped",
        "microbatch_size",
    }


@pytest.mark.parametrize("other", ["environment.json", "summary.json", "notes.json"])
def test_old_keys_are_shown_but_for_the_recipe_of_a_run(
    other: str, folder: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / other).write_text("{}")
    (folder / "recipe.toml").write_text(BASE + OLD)
    load_recipe("recipe.toml", registry)
    assert len(caplog.records) == (other == "notes.json")
