"""Every recipe that is shipped, found wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.errors import RecipeError
from peftkit.plugins import Registry, load_registry
from peftkit.recipe import load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
FILES = {file.relative_to(RECIPES).as_posix(): file for file in sorted(RECIPES.rglob("*.toml"))}
BASES = [name for name in FILES if name.startswith("bases/")]
WHOLE = [name for name in FILES if name not in BASES]
MATRIX = [name for name in WHOLE if name.startswith("wordnet/")]

METHODS = ("full", "lora", "parallel_adapters", "prefix_tuning", "vera")
TASKS = ("distractors", "mcq", "topic")
SHIPPED_APART = {"parallel_adapters": "peftkit-adapters"}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def test_there_are_as_many_as_there_should_be() -> None:
    assert (len(FILES), len(WHOLE), len(BASES), len(MATRIX)) == (20, 19, 1, len(METHODS) * len(TASKS))
    assert [name for name in FILES if not name.endswith(".toml")] == []


@pytest.mark.parametrize("name", WHOLE)
def test_a_recipe_is_right_or_says_which_plugin_it_needs(name: str, registry: Registry) -> None:
    needed = next((method for method in SHIPPED_APART if method in name), None)
    if needed is None or needed in registry.of("method"):
        recipe = load_recipe(FILES[name], registry)
        assert recipe.run.name != "run"  # the default would not tell one from another
        assert recipe.metric
    else:
        with pytest.raises(RecipeError) as caught:
            load_recipe(FILES[name], registry)
        [problem] = caught.value.problems
        assert (problem.file, problem.key) == (str(FILES[name]), "method.name")
        assert problem.text.startswith(f"no method is called {needed!r}")
        assert SHIPPED_APART[needed] in problem.text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", TASKS)
def test_five_methods_on_three_tasks(task: str, method: str, registry: Registry) -> None:
    name = f"wordnet/{task}_{method}.toml"
    assert name in FILES
    if method in registry.of("method"):
        recipe = load_recipe(FILES[name], registry)
        assert (recipe.task.name, recipe.method.name) == (f"wordnet_{task}", method)
        assert recipe.run.name == f"wordnet_{task}_{method}"
    else:
        assert method in SHIPPED_APART


def test_the_runs_of_no_two_recipes_have_one_name(registry: Registry) -> None:
    found = [name for name in WHOLE if not any(method in name for method in SHIPPED_APART)]
    names = [load_recipe(FILES[name], registry).run.name for name in found]
    assert len(set(names)) == len(names) >= 16


@pytest.mark.parametrize("name", BASES)
def test_a_base_lacks_what_a_recipe_adds_and_nothing_else(name: str, registry: Registry) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(FILES[name], registry)
    assert [problem.key for problem in caught.value.problems] == ["task.name", "method.name"]
