"""What is valid by itself and cannot work together; the words that a recipe's author reads are in test_problems.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.errors import RecipeError
from peftkit.plugins import Registry
from peftkit.recipe import Recipe, load_recipe
from peftkit.recipe.check import findings, situation

KINDS = {
    "encoder-decoder": {"is_encoder_decoder": True, "model_type": "t5"},
    "decoder": {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
    "encoder": {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
}


@pytest.fixture
def recipe(right: str, folder: Path, registry: Registry) -> Recipe:
    (folder / "x.toml").write_text(right, encoding="utf-8")
    return load_recipe("x.toml", registry, ["model.name=some/hub-model", "task.name=wordnet_distractors"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_model_is_judged_once_its_config_is_known(kind: str, recipe: Recipe) -> None:
    assert findings(recipe, {}) == []
    found = findings(recipe, KINDS[kind])
    assert [path for path, _ in found] == ([("task", "name")] if kind == "encoder" else [])


def test_the_situation_says_what_the_recipe_asks_for(recipe: Recipe) -> None:
    asked = situation(recipe, KINDS["decoder"])
    assert (asked.model_kind, asked.task_kind, asked.model_type) == ("decoder", "generation", "gpt2")
    assert (asked.gradient_checkpointing, asked.mixed_precision) == (False, "no")
    assert situation(recipe, {}).model_kind is None


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.mixed_precision=fp16"], []),
        (["train.mixed_precision=fp16", "model.dtype=bfloat16"], ["train.mixed_precision"]),
        (["train.mixed_precision=bf16", "model.dtype=bfloat16"], []),
        (['metric=[{name = "rouge"}, {name = "rouge"}]'], ["metric", "metric[1].name"]),
        (['metric=[{name = "distractor_match"}, {name = "bleu"}]'], []),
        (['metric=[{name = "accuracy"}, {name = "distractor_match"}]'], ["metric[0].name"]),
        (["metric=[]"], ["metric"]),
        (["method.name=prefix_tuning", "train.gradient_checkpointing=true"], ["method.name"]),
        (["train.gradient_checkpointing=true"], []),
    ],
)
@pytest.mark.usefixtures("recipe")
def test_what_cannot_work_together(overrides: list[str], expected: list[str], registry: Registry) -> None:
    found: list[str] = []
    try:
        load_recipe("x.toml", registry, ["task.name=wordnet_distractors", *overrides])
    except RecipeError as error:
        found = sorted(problem.key for problem in error.problems)
    assert found == expected
