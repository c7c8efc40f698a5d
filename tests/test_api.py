"""Functions of the package ``peftkit``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import peftkit
from peftkit.errors import InputError
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe
from peftkit.train.run import run

ENCODER = """
[run]
name = "api"
[model]
name = "pocket-encoder"
[task]
name = "wordnet_topic"
[method]
name = "bitfit"
[train]
batch_size = 8
[train.budget]
steps = 3
[evaluate]
every = "100%"
train_examples = 0
dev_examples = 8
test_examples = 8
[track]
to = []
"""


def test_import_peftkit_imports_no_library() -> None:
    code = "import sys, peftkit; peftkit.__all__; print({'torch', 'pydantic', 'peftkit.api'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(peftkit, name) for name in peftkit.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'load_models'"):
        peftkit.load_models  # noqa: B018


def test_load_model_loads_the_head_of_a_run(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(ENCODER)
    registry = load_registry()
    path = run(load_recipe(file, registry, [f"run.output={tmp_path / 'runs'}"]), registry)
    assert path is not None
    model, tokenizer = peftkit.load_model(path)
    rows = [json.loads(line) for line in (path / "predictions" / "test.jsonl").read_text().splitlines()]
    for row in rows:
        with torch.no_grad():
            scores = model(**tokenizer(row["source"], return_tensors="pt").to(model.device)).logits.log_softmax(-1)[0]
        assert scores.tolist() == pytest.approx(row["log_likelihoods"], abs=1e-5)


def test_load_model_of_another_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run directory: it has no recipe\.toml"):
        peftkit.load_model(tmp_path)


def test_a_public_task_imports_neither_torch_nor_datasets() -> None:
    code = "import sys, peftkit; peftkit.TextClassification; print({'torch', 'datasets'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
