"""All recipes and sweeps of the repository."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from peftkit.errors import RecipeError
from peftkit.plugins import FIRST_PARTY, Registry, load_registry
from peftkit.recipe import load_recipe
from peftkit.run_directory import RunDirectory
from peftkit.sweep.grid import expand
from peftkit.sweep.sweep_file import read_sweep
from peftkit.train.run import run
from tests.tasks.conftest import Write, examinations, questions, tweets, write

__all__ = ["write"]  # the fixture

RECIPES = Path(__file__).parents[2] / "recipes"
SWEEPS = sorted(RECIPES.glob("sweeps/*.toml"))
FILES = {file.relative_to(RECIPES).as_posix(): file for file in sorted({*RECIPES.rglob("*.toml")} - {*SWEEPS})}
BASES = [name for name in FILES if name.startswith("bases/")]
TASK_BASES = [name for name in BASES if name not in ("bases/pocket.toml", "bases/t5_base.toml")]
WHOLE = [name for name in FILES if name not in BASES]
OWN = [name for name in WHOLE if name.startswith("own_data/")]
MATRIX = [name for name in WHOLE if name.startswith("wordnet/")]

METHODS = ("full", "lora", "parallel_adapters", "prefix_tuning", "vera")
TASKS = ("distractors", "mcq", "topic")
HUB = ("ag_news", "commonsense_qa", "race", "race_distractors", "tweet_emotion", "tweet_hate")
LARGE = ("commonsense_qa", "tweet_emotion", "tweet_hate")


def method_of(name: str) -> str:
    return str(tomllib.loads(FILES[name].read_text(encoding="utf-8"))["method"]["name"])


def hub_recipe(task: str, method: str, *, large: bool) -> str:
    """The recipe file of a hub task and a method."""
    if (task, method, large) == ("commonsense_qa", "parallel_adapters", False):
        return "cqa_adapters.toml"
    return f"{task}/{'large_' if large else ''}{method}.toml"


HUB_FILES = [
    hub_recipe(t, m, large=large) for t in HUB for m in METHODS for large in (False, True) if not large or t in LARGE
]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def test_number_of_recipes() -> None:
    assert (len(FILES), len(WHOLE), len(BASES), len(MATRIX)) == (103 + len(OWN), 94 + len(OWN), 9, 15)
    assert len(HUB_FILES) == len({*HUB_FILES} & {*WHOLE}) == 45
    assert [name for name in FILES if not name.endswith(".toml")] == []


@pytest.mark.parametrize("name", WHOLE)
def test_every_recipe_is_valid_or_names_its_plugin(
    name: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peftkit.metrics.answers.instruction_following.detects_languages", lambda: True)
    needed = method_of(name)
    if needed in registry.all("method"):
        recipe = load_recipe(FILES[name], registry)
        assert recipe.run.name != "run"  # the default does not distinguish recipes
        assert recipe.metric
    else:
        with pytest.raises(RecipeError) as caught:
            load_recipe(FILES[name], registry)
        [problem] = caught.value.problems
        assert (problem.file, problem.key) == (str(FILES[name]), "method.name")
        assert problem.text.startswith(f"no method is called {needed!r}")
        assert FIRST_PARTY[needed] in problem.text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", TASKS)
def test_the_matrix_has_five_methods_on_three_tasks(task: str, method: str, registry: Registry) -> None:
    name = f"wordnet/{task}_{method}.toml"
    assert name in FILES
    if method in registry.all("method"):
        recipe = load_recipe(FILES[name], registry)
        assert (recipe.task.name, recipe.method.name) == (f"wordnet_{task}", method)
        assert recipe.run.name == f"wordnet_{task}_{method}"
    else:
        assert method in FIRST_PARTY


def test_every_documented_variant_of_lora_has_a_recipe() -> None:
    documented = (RECIPES.parent / "docs" / "methods.md").read_text(encoding="utf-8")
    variants = {name for name in WHOLE if name.startswith("lora/")}
    assert variants == {f"lora/{name}.toml" for name in re.findall(r"recipes/lora/(\w+)\.toml", documented)}
    assert len(variants) == 12


def test_run_names_of_recipes_are_unique(registry: Registry) -> None:
    available = [name for name in WHOLE if method_of(name) in registry.all("method")]
    names = [load_recipe(FILES[name], registry).run.name for name in available]
    assert len(set(names)) == len(names) >= 50


def test_sweeps_have_the_expected_number_of_studies(registry: Registry) -> None:
    sizes = {}
    for file in SWEEPS:
        table = read_sweep(file).model_copy(update={"skip_incompatible": True})
        grid = expand(file, table, registry)
        missing = [each for each in grid.rejected if "no method is called" in each.reason]
        assert all(FIRST_PARTY["parallel_adapters"] in each.reason for each in missing)
        sizes[file.stem] = len(grid.studies) + len(missing)
        assert {len(study.recipes) for study in grid.studies} == {{"quickstart": 2, "pocket": 5}.get(file.stem, 3)}
        assert (table.tune is None) == (file.stem in ("quickstart", "topic"))
    assert [*sizes] == ["emotion", "learning_efficiency", "pocket", "quickstart", "ranks", "topic"]
    assert (sizes["quickstart"], sizes["topic"]) == (3, 5)
    assert sizes["emotion"] == 5
    assert sizes["learning_efficiency"] == 5 * (4 + 2)
    # With built-in methods only; one task on three models, and another on two of them.
    assert sizes["pocket"] >= 5 * 35
    assert sizes["ranks"] == 2 * 20


def test_the_rank_sweep_has_three_sizes_of_each_method(registry: Registry) -> None:
    file = RECIPES / "sweeps" / "ranks.toml"
    grid = expand(file, read_sweep(file), registry)
    sizes: dict[str, set[str]] = {}
    for study in grid.studies:
        method = study.any_recipe.method
        sizes.setdefault(method.name, set()).add(method.model_dump_json())
        assert study.label.endswith(method.name) == (method.name == "full")
    assert sizes.pop("full")
    assert {"lora", "loha", "vera", "prefix_tuning"} <= sizes.keys()
    assert all(len(variants) >= 3 for variants in sizes.values())


@pytest.mark.parametrize("name", BASES)
def test_bases_lack_only_the_keys_that_recipes_add(name: str, registry: Registry) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(FILES[name], registry)
    lacking = ["method.name"] if name in TASK_BASES else ["task.name", "method.name"]
    assert [problem.key for problem in caught.value.problems] == lacking


@pytest.mark.parametrize("name", HUB_FILES)
def test_hub_recipes_are_short_and_have_the_published_settings(name: str, registry: Registry) -> None:
    text = FILES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) < 15
    assert text.startswith("extends = ")
    if method_of(name) not in registry.all("method"):
        return
    recipe = load_recipe(FILES[name], registry)
    assert recipe.model.name == f"google-t5/t5-{'large' if 'large_' in name else 'base'}"
    assert recipe.task.name in ("ag_news", "commonsense_qa", "race", "race_distractors", "tweet_eval")
    train = recipe.train
    assert (train.batch_size, train.learning_rate, train.optimizer, train.schedule) == (
        8,
        1e-3,
        "adafactor",
        "constant",
    )
    options = recipe.method.model_dump()
    expected = {
        "full": {},
        "lora": {"r": 8, "lora_alpha": 8, "target_modules": ["q", "v"]},
        "vera": {"r": 256},
        "prefix_tuning": {"num_virtual_tokens": 100, "prefix_projection": True},
        "parallel_adapters": {"reduction_factor": 8.0},
    }[recipe.method.name]
    assert {key: list(v) if isinstance(v := options[key], tuple) else v for key in expected} == expected


ROWS = {
    "ag_news": tweets,
    "commonsense_qa": questions,
    "race": examinations,
    "race_distractors": examinations,
    "tweet_emotion": tweets,
    "tweet_hate": lambda number: tweets(number, 2),
}


@pytest.mark.slow
@pytest.mark.one_line
@pytest.mark.parametrize("task", HUB)
@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
def test_hub_recipes_run_on_local_data(
    task: str, kind: str, models: dict[str, Path], registry: Registry, write: Write, tmp_path: Path
) -> None:
    for split, number in (("train", 24), ("validation", 12), ("test", 12)):
        write(f"hub/{split}.parquet", ROWS[task](number))
    overrides = [
        f"task.path={tmp_path / 'hub'}",
        f"model.name={models[kind]}",
        f"run.output={tmp_path / 'runs'}",
        "train.budget.steps=2",
        "evaluate.every=100%",
        "evaluate.at_start=false",
        "evaluate.train_examples=8",
        "evaluate.max_new_tokens=8",
        "track.to=[]",
    ]
    if kind != "encoder-decoder":  # q and v are T5's names
        overrides.append("method.target_modules=all-linear")
    recipe_file = FILES[hub_recipe(task, "lora", large=False)]
    if (task, kind) == ("race_distractors", "encoder"):
        with pytest.raises(RecipeError, match="which has no objective for a model of kind 'encoder'"):
            load_recipe(recipe_file, registry, overrides)
        return
    path = run(load_recipe(recipe_file, registry, overrides), registry)
    assert path is not None
    summary = RunDirectory(path).summary()
    assert summary["status"] == "done"
    assert summary["rows"]["test"] == 12
    assert summary["baselines"]["constant"]["test"].keys() <= summary["selected"]["test"].keys()
    lines = [json.loads(line) for line in (path / "predictions/test.jsonl").read_text().splitlines()]
    if task not in ("race_distractors", "tweet_emotion", "tweet_hate"):
        right = sum(line["prediction"] == line["target"] for line in lines)
        assert right / len(lines) == pytest.approx(summary["selected"]["test"]["accuracy"])
