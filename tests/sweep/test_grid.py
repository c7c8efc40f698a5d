from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest

from peftkit.errors import InputError, RecipeError
from peftkit.plugins import Registry
from peftkit.recipe import drop_none, dump_recipe, load_recipe
from peftkit.sweep.grid import Grid, recipe_hash, to_overrides, unflatten

Make = Callable[..., Grid]
AXES = """
[axes]
method = ["lora", { name = "lora", r = 16 }, "full"]
train.learning_rate = [1e-3, 1e-4]
seed = [1, 2, 3]
"""


def test_every_combination_is_a_study_of_its_seeds(grid: Make) -> None:
    expanded = grid(AXES)
    assert [study.label for study in expanded.studies] == [
        "lora · 0.001",
        "lora · 0.0001",
        "lora (r=16) · 0.001",
        "lora (r=16) · 0.0001",
        "full · 0.001",
        "full · 0.0001",
    ]
    assert all([*study.recipes] == [1, 2, 3] for study in expanded.studies)
    wide = expanded.studies[2].recipes[2]
    assert (wide.method.r, wide.train.learning_rate, wide.run.seed) == (16, 1e-3, 2)  # type: ignore[attr-defined]
    assert wide.run.name == "wordnet_topic-lora"
    assert wide.track.tags == ("s",)
    assert wide.run.output.endswith(f"s/runs/{recipe_hash(wide)}")


def test_recipe_hashes_are_distinct(grid: Make) -> None:
    recipes = [recipe for study in grid(AXES).studies for recipe in study.recipes.values()]
    assert len({recipe_hash(recipe) for recipe in recipes}) == len(recipes) == 18


def test_recipe_hash_ignores_name_output_and_tracking(grid: Make, registry: Registry) -> None:
    recipe = grid("[axes]\nseed = [1]\n").studies[0].recipes[1]
    same = recipe.model_copy(
        update={
            "run": recipe.run.model_copy(update={"name": "other", "output": "elsewhere"}),
            "track": recipe.track.model_copy(update={"to": ("wandb",)}),
        }
    )
    assert recipe_hash(same) == recipe_hash(recipe)
    other = grid("[axes]\nseed = [2]\n").studies[0]
    assert recipe_hash(other.any_recipe) != recipe_hash(recipe)
    seeds = ("run.init_seed=1", "run.order_seed=1", "run.resample_train=bootstrap")
    for key in ("train.learning_rate=0.5", "task.name=wordnet_mcq", "evaluate.every=50%", "method.r=3", *seeds):
        other = grid(f"[axes]\nseed = [1]\n[set]\n{_toml(key)}").studies[0]
        assert recipe_hash(other.any_recipe) != recipe_hash(recipe), key


def test_recipe_hash_does_not_depend_on_unset_newer_keys(grid: Make) -> None:
    recipe = grid("[axes]\nseed = [1]\n").studies[0].recipes[1]
    data = drop_none(recipe.model_dump(mode="json"))
    assert data.pop("run").keys() == {"name", "seed", "output"}
    del data["track"]
    text = json.dumps({**data, "run": {"seed": 1}}, sort_keys=True)
    assert recipe_hash(recipe) == hashlib.sha256(text.encode()).hexdigest()[:16]


def _toml(override: str) -> str:
    key, value = override.split("=")
    return f"{key} = {value}" if value.replace(".", "").isdigit() else f'{key} = "{value}"'


def test_duplicate_points_are_run_once(grid: Make) -> None:
    expanded = grid('[axes]\nmethod = ["lora", { name = "lora", r = 8 }]\nseed = [1]\n')
    assert [study.label for study in expanded.studies] == ["lora"]


def test_a_named_axis_sets_several_keys(grid: Make) -> None:
    expanded = grid(
        """
[[axes.on]]
label = "few"
task.name = "wordnet_mcq"
evaluate = { dev_examples = 3, test_examples = 4 }
[[axes.on]]
task.name = "wordnet_topic"
"""
    )
    few, topic = expanded.studies
    assert (few.label, topic.label) == ("few", "wordnet_topic")
    assert (few.any_recipe.task.name, few.any_recipe.evaluate.test_examples) == ("wordnet_mcq", 4)
    assert topic.any_recipe.evaluate.test_examples is None


def test_all_means_every_installed_method(grid: Make, registry: Registry) -> None:
    expanded = grid('skip_incompatible = true\n[axes]\nmethod = ["all", { name = "lora", r = 2 }]\n')
    labels = {study.label for study in expanded.studies}
    rejected = {each.label for each in expanded.rejected}
    assert labels | rejected == {*registry.all("method", presets=False)}
    assert "bitfit" in rejected
    assert [study.any_recipe.method.r for study in expanded.studies if study.label == "lora"] == [2]  # type: ignore[attr-defined]
    assert "has no biases" in next(each.reason for each in expanded.rejected if each.label == "bitfit")


def test_presets_are_values_of_an_axis_by_their_names(grid: Make) -> None:
    expanded = grid('[axes]\nmethod = ["lora", "dora", { name = "rslora", r = 2 }]\n')
    assert [study.label for study in expanded.studies] == ["lora", "dora", "rslora"]
    assert [study.any_recipe.method.name for study in expanded.studies] == ["lora", "dora", "rslora"]
    assert len({recipe_hash(study.any_recipe) for study in expanded.studies}) == 3


def test_incompatible_combinations_are_an_error_unless_skipped(grid: Make) -> None:
    with pytest.raises(RecipeError, match=r"(?s)bitfit: method.name: .*has no biases.*skip_incompatible = true"):
        grid('[axes]\nmethod = ["lora", "bitfit"]\n')


def test_exclusions_take_values_and_lists(grid: Make) -> None:
    expanded = grid(
        AXES + '[[exclude]]\nmethod.name = "full"\ntrain.learning_rate = 1e-3\n[[exclude]]\nmethod.r = [16, 4]\n'
    )
    assert [study.label for study in expanded.studies] == ["lora · 0.001", "lora · 0.0001", "full · 0.0001"]


def test_exclusions_take_keys_that_some_recipes_have(grid: Make) -> None:
    axes = '[axes]\nmethod = ["lora"]\ntrain.optimizer_options = [{}, { clip_threshold = 0.5 }]\n'
    expanded = grid(axes + "[[exclude]]\ntrain.optimizer_options.clip_threshold = 0.5\n")
    assert len(expanded.studies) == 1
    assert expanded.studies[0].any_recipe.train.optimizer_options == {}


def test_only_selects_values_of_axes(grid: Make) -> None:
    assert [s.label for s in grid(AXES, only=("method=full", "train.learning_rate=0.001")).studies] == ["full · 0.001"]
    with pytest.raises(InputError, match=r"method has no value 'lara'.*did you mean 'lora'"):
        grid(AXES, only=("method=lara",))
    with pytest.raises(InputError, match=r"no axis 'methods'.*did you mean 'method'"):
        grid(AXES, only=("methods=lora",))


def test_axes_precede_overrides(grid: Make) -> None:
    expanded = grid(AXES, overrides=("train.batch_size=3", "train.learning_rate=9"))
    assert {(s.any_recipe.train.batch_size, s.any_recipe.train.learning_rate) for s in expanded.studies} == {
        (3, 1e-3),
        (3, 1e-4),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[axes]\nmethod = "lora"\n', "axes.method: must be a list of values, or 'all'"),
        ("[axes]\nmethod = [3]\n", "axes.method: each value must be a name"),
        ("[axes]\nrun = [1]\n", "axes.run: is a recipe table; use one of its keys"),
        ("[axes]\nsed = [1]\n", "axes.sed: not a recipe key.*did you mean 'seed'"),
        ("[axes]\ntrain.batch_size = []\n", "axes.train.batch_size: must be a list"),
        ('[axes]\nmethod = ["lara"]\n', "(?s)lara: method.name.*did you mean 'lora'"),
        ('[axes]\ntrain.batch_size = ["8"]\n', "train.batch_size: must be a whole number"),
        ('[axes]\nseed = [1]\n[[exclude]]\nmethod.name = "lora"\n', "no combination is left"),
        ('[axes]\nseed = [1]\n[[exclude]]\nmethod.nme = "full"\n', r"exclude: .* method.nme \(did you mean 'name'"),
        (
            "[axes]\nseed = [1]\n[[exclude]]\ntrain.budgit.steps = 4\n",
            r"exclude: .* train.budgit \(did you mean 'budget'",
        ),
    ],
)
def test_invalid_axes_are_errors(grid: Make, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        grid(text)


def test_a_layer_equals_its_overrides(registry: Registry, grid: Make) -> None:
    layer = unflatten({"train.learning_rate": 0.5, "train.budget.steps": 9}) | {"method": {"name": "vera", "r": 4}}
    assert sorted(to_overrides(layer)) == [
        'method={"name" = "vera", "r" = 4}',
        "train.budget.steps=9",
        "train.learning_rate=0.5",
    ]
    expanded = grid("[axes]\nseed = [1]\n")
    recipe = load_recipe(expanded.path.parent / "base.toml", registry, [*to_overrides(layer)])
    assert (recipe.method.name, recipe.method.r, recipe.train.budget.steps) == ("vera", 4, 9)  # type: ignore[attr-defined]
    assert "learning_rate = 0.5" in dump_recipe(recipe)


def test_all_runs_get_the_same_share_of_their_budget(grid: Make) -> None:
    axes = '[axes]\nmethod = ["lora", "full"]\ntrain.budget.steps = [40, 100]\n'
    budgets = [study.any_recipe.train.budget.steps for study in grid("budget_share = 0.25\n" + axes).studies]
    assert budgets == [10, 25, 10, 25]
    whole, part = (grid(f"budget_share = {share}\n{axes}").studies[0].any_recipe for share in (1.0, 0.5))
    assert recipe_hash(whole) != recipe_hash(part)
