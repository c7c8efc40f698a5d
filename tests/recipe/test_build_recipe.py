"""Recipes that are built in Python equal those of files with the same keys."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from peftkit.errors import RecipeError
from peftkit.plugins import load_registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.recipe.build_recipe import build_table

NAMES: dict[str, Any] = {
    "model": {"name": "pocket-t5"},
    "task": {"name": "wordnet_topic"},
    "method": {"name": "lora"},
}
VALID: dict[str, dict[str, Any]] = {
    "names only": {},
    "options": {"method": {"name": "lora", "r": 4, "target_modules": ["q", "v"]}},
    "another spelling": {"method": {"name": "lora", "alpha": 4}},
    "budget": {"train": {"budget": {"gmacs": 100}}},
    "metrics": {"metric": [{"name": "accuracy"}, {"name": "exact_match"}]},
    "run": {"run": {"name": "x", "seed": 3}, "track": {"to": []}, "evaluate": {"every": "50%"}},
    "keys of format 1": {"evaluate": {"selects": "loss"}},
}
INVALID: dict[str, dict[str, Any]] = {
    "unknown option": {"method": {"name": "lora", "rank": 4}},
    "unknown component": {"method": {"name": "lorra"}},
    "no name": {"method": {"r": 4}},
    "wrong type": {"train": {"batch_size": "4"}},
    "a number for a table": {"train": 4},
    "unknown key of a table": {"train": {"budget": {"gmac": 4}}},
    "a date": {"run": {"name": datetime.date(2026, 1, 1)}},
    "beyond 64 bits": {"run": {"seed": 2**70}},
    "infinity": {"train": {"learning_rate": float("inf")}},
    "two aliases": {"method": {"name": "lora", "alpha": 1, "lora_alpha": 1}},
    "incompatible": {"method": {"name": "prefix_tuning"}, "train": {"gradient_checkpointing": True}},
    "several": {"method": {"name": "lora", "rank": 4}, "model": {"name": "pocket-t"}, "train": {"x": 1}},
}


def write(tables: dict[str, Any], folder: Path) -> Path:
    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps({key: value for key, value in tables.items() if value is not None}))
    return path


def problems_of(error: RecipeError) -> set[tuple[str, str]]:
    return {(problem.key, problem.text) for problem in error.problems}


@pytest.mark.parametrize("case", VALID)
def test_a_built_recipe_equals_that_of_the_file(case: str, tmp_path: Path) -> None:
    tables = NAMES | VALID[case]
    assert Recipe.build(**tables) == load_recipe(write(tables, tmp_path), load_registry())


@pytest.mark.parametrize("case", INVALID)
def test_problems_are_those_of_the_file_without_a_place(case: str, tmp_path: Path) -> None:
    tables = NAMES | INVALID[case]
    with pytest.raises(RecipeError) as of_file:
        load_recipe(write(tables, tmp_path), load_registry())
    with pytest.raises(RecipeError) as of_python:
        Recipe.build(**tables)
    assert problems_of(of_python.value) == problems_of(of_file.value)
    assert str(of_python.value).splitlines()[0].startswith(of_python.value.problems[0].key)


def test_names_stand_for_tables() -> None:
    recipe = Recipe.build(
        model="pocket-t5", task="wordnet_topic", method="lora", budget={"steps": 3}, metric="accuracy"
    )
    tables = NAMES | {"train": {"budget": {"steps": 3}}, "metric": [{"name": "accuracy"}]}
    assert recipe == Recipe.build(**tables)


def test_values_of_other_libraries_and_parts_of_recipes_are_converted() -> None:
    first = Recipe.build(**NAMES, train={"batch_size": 4, "budget": {"steps": 3}})
    converted = Recipe.build(
        model=first.model,
        task=first.task,
        method={"name": np.str_("lora"), "r": np.int64(8), "lora_dropout": np.float64(0.0), "lora_alpha": None},
        metric=first.metric,
        train={"batch_size": np.array(4)},
        budget=first.train.budget,
        run={"output": Path("runs")},
    )
    assert converted == first


def test_a_recipe_extends_a_file_and_takes_overrides(tmp_path: Path) -> None:
    path = write(NAMES | {"train": {"batch_size": 4}}, tmp_path)
    recipe = Recipe.build(extends=path, method=build_table("method", "ia3", {}), overrides=["train.batch_size=2"])
    assert (recipe.method.name, recipe.train.batch_size, recipe.task.name) == ("ia3", 2, "wordnet_topic")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"train": {"budget": {"steps": 1}}, "budget": {"steps": 1}}, "train.budget: is set twice"),
        ({"method": {"name": "lora", "r": Decimal(8)}}, "method.r: cannot be of the type Decimal"),
        ({"method": {"name": "lora", "target_modules": ["q", None]}}, r"method.target_modules\[1\]: cannot be of the"),
        ({"run": {1: 2}}, "run: has the key 1; keys must be strings"),
        ({"overrides": ["train.steps=3"]}, "overrides: train.steps: unknown key"),
    ],
)
def test_problems_that_files_cannot_have_name_the_key(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}"):
        Recipe.build(**NAMES | tables)


def test_a_list_that_contains_itself_is_a_problem() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with pytest.raises(RecipeError, match="is nested too deep"):
        Recipe.build(**NAMES, run={"name": cyclic})


def test_tables_of_components_are_checked_at_once() -> None:
    assert build_table("method", "lora", {"r": np.int64(8)}) == {"name": "lora", "r": 8}
    with pytest.raises(RecipeError, match=r"^method.rank: unknown key; 'lora' takes .* \(did you mean 'r'\?\)$"):
        build_table("method", "lora", {"rank": 8})
    with pytest.raises(RecipeError, match=r"^task.name: no task is called 'wordnet_topics' \(did you mean"):
        build_table("task", "wordnet_topics", {})
    with pytest.raises(RecipeError, match=r"^metric\[0\].x: unknown key"):
        build_table("metric", "accuracy", {"x": 1})


def test_a_recipe_is_shown_in_one_line_and_as_toml(tmp_path: Path) -> None:
    recipe = Recipe.build(**NAMES, budget={"gmacs": 100}, run={"output": "<runs>"})
    text = "Recipe(model='pocket-t5', task='wordnet_topic', method='lora', budget={'gmacs': 100.0})"
    assert repr(recipe) == text
    assert "output = &quot;&lt;runs&gt;&quot;" in recipe._repr_html_()
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    assert load_recipe(tmp_path / "recipe.toml", load_registry()) == recipe
