"""Tests of peftkit.analysis.recipe_draft."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from peftkit.analysis.recipe_draft import default_name, draft_recipe, round_length, sensible_methods
from peftkit.analysis.task_candidates import TaskCandidate
from peftkit.components.types import TaskMatch
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe
from peftkit.recipe.model_names import BUILT_IN_MODELS


@pytest.mark.parametrize("model", BUILT_IN_MODELS)
def test_the_methods_suit_the_model(model: str) -> None:
    methods = sensible_methods(model, "classification", load_registry())
    assert methods[:2] == ["lora", "full"]
    assert len(methods) == 4


def test_texts_are_valid_toml_with_odd_names(tmp_path: Path) -> None:
    options = {"path": 'a "b"\\c.csv', "text_column": "é{x}", "label_column": "l", "dev_fraction": 0.1}
    match = TaskMatch(0.5, options, "'l' has 2 values")
    candidate = TaskCandidate("text_classification", "classification", match)
    draft = draft_recipe("n", "pocket-t5", candidate, ["lora", "full"], max_source_length=64, with_schemas=True)
    recipe = tomllib.loads(draft.recipe)
    assert recipe["task"] == {"name": "text_classification", **options}
    assert recipe["train"]["max_source_length"] == 64
    assert "max_target_length" not in recipe["train"]
    assert draft.recipe.startswith("#:schema ./recipe.schema.json\n")
    sweep = tomllib.loads(draft.sweep)
    assert [method["name"] for method in sweep["axes"]["method"]] == ["lora", "full"]
    (tmp_path / "n.toml").write_text(draft.recipe, encoding="utf-8")
    assert load_recipe(tmp_path / "n.toml", load_registry()).method.name == "lora"


@pytest.mark.parametrize(
    ("path", "name"), [("data/my reviews.csv.gz", "my_reviews"), ("owner/set", "set"), ("é.csv", "é"), ("...", "task")]
)
def test_names(path: str, name: str) -> None:
    assert default_name(path) == name


def test_lengths_are_rounded_up() -> None:
    assert [round_length(tokens) for tokens in (1, 32, 33, 9999)] == [32, 32, 64, 2048]
