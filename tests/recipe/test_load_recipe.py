"""``load_recipe`` and ``dump_recipe``."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from peftkit import Method, RunSpec, Task
from peftkit.errors import PluginError, Problem, RecipeError
from peftkit.plugins import Entry, Registry
from peftkit.recipe import Recipe, dump_recipe, load_recipe
from peftkit.recipe.toml_lines import KeyPath

EVERYTHING = """\
[run]
name = "all"
seed = 7
[model]
name = "pocket-t5"
dtype = "bfloat16"
attention = "eager"
[task]
name = "wordnet_mcq"
distractors = "sisters"
[method]
name = "lora"
alpha = 16
dropout = 0.1
target_modules = ["q", "v"]
layers_to_transform = [0, 1]
init_lora_weights = "pissa"
rank_pattern = {"block.0.q" = 4}
[train]
optimizer = "AdamW"
learning_rate = 1
optimizer_options = {betas = [0.9, 0.99], fused = true, eps = 1e-8}
[train.budget]
steps = 10
seconds = 1.5
[evaluate]
every = "0.5 epochs"
dev_examples = 10
[[metric]]
name = "accuracy"
[[metric]]
name = "exact_match"
[track]
to = []
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipe") / "x.toml"


def load(text: str, file: Path, registry: Registry, *overrides: str) -> Recipe:
    file.write_text(text, encoding="utf-8", newline="")
    return load_recipe(file, registry, overrides)


def test_a_short_recipe_has_the_defaults_and_the_task_s_metrics(
    valid_recipe: str, file: Path, registry: Registry
) -> None:
    recipe = load(valid_recipe, file, registry)
    assert (recipe.run.seed, recipe.train.budget.epochs, recipe.train.optimizer) == (42, 1, "adafactor")
    assert [metric.name for metric in recipe.metric] == ["accuracy"]
    assert type(recipe.task) is registry.find("task", "wordnet_mcq").component
    assert type(recipe.method) is registry.find("method", "lora").component


def test_all_values_of_a_recipe_are_kept(file: Path, registry: Registry) -> None:
    recipe = load(EVERYTHING, file, registry)
    dumped = recipe.model_dump()
    assert dumped["method"]["lora_alpha"] == 16
    assert dumped["method"]["target_modules"] == ("q", "v")
    assert dumped["task"] == {"name": "wordnet_mcq", "distractors": "sisters"}
    assert dumped["train"]["optimizer_options"] == {"betas": [0.9, 0.99], "fused": True, "eps": 1e-8}
    assert type(recipe.train.learning_rate) is float
    assert [metric["name"] for metric in dumped["metric"]] == ["accuracy", "exact_match"]


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_a_resolved_recipe_reads_back_equal(seed: int, valid_recipe: str, file: Path, registry: Registry) -> None:
    for text in (valid_recipe, EVERYTHING):
        recipe = load(text, file, registry, f"run.seed={seed}")
        dumped = dump_recipe(recipe)
        again = load(dumped, file, registry)
        assert again == recipe
        assert dump_recipe(again) == dumped
        assert f"seed = {seed}\n" in dumped


def test_all_tables_of_a_recipe_are_frozen(valid_recipe: str, file: Path, registry: Registry) -> None:
    recipe = load(valid_recipe, file, registry)
    for table, key in ((recipe, "run"), (recipe.run, "seed"), (recipe.train.budget, "steps"), (recipe.method, "r")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(table, key, getattr(table, key))


def test_aliases_of_an_option_override_each_other(valid_recipe: str, file: Path, registry: Registry) -> None:
    (file.parent / "base.toml").write_text(valid_recipe + "lora_alpha = 1\ndropout = 0.1\n", encoding="utf-8")
    child = 'extends = "base.toml"\n[method]\nalpha = 2\n'
    assert load(child, file, registry).model_dump()["method"]["lora_alpha"] == 2
    options = load(child, file, registry, "method.lora_alpha=3", "method.lora_dropout=0.3").model_dump()["method"]
    assert (options["lora_alpha"], options["lora_dropout"]) == (3, 0.3)
    assert (
        load(child, file, registry, "method.alpha=4", "method.lora_alpha=5").model_dump()["method"]["lora_alpha"] == 5
    )


PRESET = '[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_mcq"\n[method]\nname = "{}"\n'


def test_a_preset_is_recorded_with_its_name_and_all_options(file: Path, registry: Registry) -> None:
    recipe = load(PRESET.format("dora") + "r = 4\n", file, registry)
    options = tomllib.loads(dump_recipe(recipe))["method"]
    assert (options["name"], options["r"], options["use_dora"], options["use_rslora"]) == ("dora", 4, True, False)
    assert load(dump_recipe(recipe), file, registry) == recipe
    assert load(PRESET.format("dora"), file, registry, "method.name=lora").method.name == "lora"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("LoRA+", "lora_plus"), ("DoRA", "dora"), ("rs-lora", "rslora"), ("Prefix Tuning", "prefix_tuning")],
)
def test_another_spelling_of_a_method_is_recorded_by_its_name(
    spelling: str, name: str, file: Path, registry: Registry
) -> None:
    assert load(PRESET.format(spelling), file, registry) == load(PRESET.format(name), file, registry)


def test_a_preset_sets_keys_of_other_tables(file: Path, registry: Registry) -> None:
    recipe = load(PRESET.format("qlora"), file, registry)
    assert (recipe.method.name, recipe.model.quantization) == ("qlora", "4bit")
    assert load(dump_recipe(recipe), file, registry) == recipe
    assert load(PRESET.format("qlora"), file, registry, "model.quantization=4bit") == recipe
    assert load(PRESET.format("qlora"), file, registry, "method.name=lora").model.quantization is None


@pytest.mark.parametrize(
    ("name", "override", "problem"),
    [
        ("qlora", "model.quantization=8bit", "'qlora' sets it to '4bit'; leave it out, or use another method"),
        ("qlora", "model.quantization=2", "must be one of '4bit', '8bit', not 2"),
        ("dora", "method.use_dora=false", "'dora' is lora with use_dora = true; leave use_dora out, or use lora"),
        ("dora", "method.use_dora=1", "must be true or false, not 1"),
    ],
)
def test_what_a_preset_sets_cannot_be_contradicted(
    name: str, override: str, problem: str, file: Path, registry: Registry
) -> None:
    with pytest.raises(RecipeError) as caught:
        load(PRESET.format(name), file, registry, override)
    key = override.partition("=")[0]
    assert caught.value.problems == (Problem("overrides", None, key, problem),)


def test_another_component_drops_the_options_of_the_first(valid_recipe: str, file: Path, registry: Registry) -> None:
    recipe = load(
        valid_recipe + "lora_alpha = 1\nr = 3\n", file, registry, "method.name=vera", "task.name=wordnet_topic"
    )
    assert recipe.method == registry.find("method", "vera").component()
    assert [metric.name for metric in recipe.metric] == list(type(recipe.task).metrics)


class Careless(Method):
    """A method whose incompatibility check fails."""

    name: Literal["careless"] = "careless"

    def apply(self, model: Any, context: Any) -> Any:
        return model

    def incompatible_with(self, situation: RunSpec) -> list[str]:
        raise KeyError("config")


class Hasty(Task):
    """A task with an unknown metric."""

    name: Literal["hasty"] = "hasty"
    kind = "generation"
    metrics = ("none_such",)
    selection_metric = "none_such"


def with_entries(registry: Registry) -> Registry:
    entries = Entry("method", "careless", Careless, "d", "1"), Entry("task", "hasty", Hasty, "d", "1")
    return replace(registry, entries=(*registry.entries, *entries))


def test_a_failing_incompatibility_check_is_an_error_that_names_the_method(
    valid_recipe: str, file: Path, registry: Registry
) -> None:
    with pytest.raises(PluginError, match="'careless' failed while its incompatibilities were checked: KeyError"):
        load(valid_recipe.replace('"lora"', '"careless"'), file, registry := with_entries(registry))


def test_an_unknown_metric_of_a_task_is_reported_at_the_task(valid_recipe: str, file: Path, registry: Registry) -> None:
    with pytest.raises(RecipeError) as caught:
        load(valid_recipe.replace('"wordnet_mcq"', '"hasty"'), file, with_entries(registry))
    [problem] = caught.value.problems
    assert (problem.line, problem.key) == (5, "metric[0].name")
    assert problem.text.startswith("no metric is called 'none_such'; installed: accuracy")


def leaves(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))


values = st.recursive(
    st.one_of(
        st.sampled_from(
            [True, False, 0, -1, 1, 8, 1.0, 0.5, "", "8", "true", "lora", "vera", "wordnet_topic", "10%", "accuracy"]
        ),
        st.integers(),
        st.floats(),
        st.text(st.characters(codec="utf-8"), max_size=5),
        st.dates(),
        st.times(),
        st.datetimes(),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "r", "epochs", "", "a.b"]), inner)
    ),
    max_leaves=4,
)


@given(st.data())
@pytest.mark.fuzz
def test_a_recipe_with_random_values_loads_or_is_a_recipe_error(
    file: Path, registry: Registry, data: st.DataObject
) -> None:
    changed: dict[str, Any] = copy.deepcopy(tomllib.loads(EVERYTHING))
    for _ in range(data.draw(st.integers(1, 3))):
        paths = [path for path in leaves(changed) if path]
        *outer, last = data.draw(st.sampled_from(paths))
        table: Any = changed
        for part in outer:
            table = table[part]
        if data.draw(st.booleans()):
            table[last] = data.draw(values)
        elif isinstance(table, dict):
            table[data.draw(st.sampled_from(["name", "r", "rank", "lr", "metric", "train"]))] = table.pop(last)
    text = tomli_w.dumps(changed)
    check_loads_or_recipe_error(text, file, registry)


@given(st.data())
@pytest.mark.fuzz
def test_a_recipe_with_random_characters_loads_or_is_a_recipe_error(
    file: Path, registry: Registry, data: st.DataObject
) -> None:
    text = EVERYTHING
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        new = data.draw(st.text(st.sampled_from("\"'[]{}=.,#\n\t a1-_\x00é"), max_size=3))
        text = text[:start] + new + text[start + data.draw(st.integers(0, 8)) :]
    check_loads_or_recipe_error(text, file, registry)


def check_loads_or_recipe_error(text: str, file: Path, registry: Registry) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        recipe = load(text, file, registry)
    except RecipeError as error:
        problems = error.problems
    else:
        assert load(dump_recipe(recipe), file, registry) == recipe
    for problem in problems:
        assert problem.file == str(file)
        assert 1 <= (problem.line or 0) <= text.count("\n") + 1
        assert "\n" not in str(problem)
        words = ("Input should", "pydantic", "Traceback", "None")  # of the libraries, unless the recipe has them
        assert not [word for word in words if word in problem.text and word not in text], problem.text
    assert len({problem.key for problem in problems}) == len(problems)
