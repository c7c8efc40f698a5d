"""Probes are checked with the recipe: their names, tasks and metrics, and whether the model can be measured on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.plugins import Registry
from peftkit.recipe import Recipe, dump_recipe, load_recipe
from peftkit.recipe.check_recipe import check_recipe

RECIPE = """
[model]
name = "{model}"
[task]
name = "wordnet_mcq"
[method]
name = "lora"
[train.budget]
steps = 1
"""


def write(folder: Path, probe: str, model: str = "pocket-decoder", more: str = "") -> Path:
    (folder / "texts.txt").write_text("a text\n", encoding="utf-8")
    path = folder / "recipe.toml"
    path.write_text(f"{RECIPE.format(model=model)}{more}\n[[probe]]\n{probe}\n", encoding="utf-8")
    return path


def errors_of(path: Path, registry: Registry) -> list[str]:
    return [*map(str, check_recipe(path, registry).errors)]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('path = "texts.txt"', "probe[0].name: missing"),
        ('name = "x"', "probe[0]: needs a path or a task whose rows are evaluated"),
        ('name = "dev"\npath = "texts.txt"', "probe[0].name: 'dev' is the name of another entry of evaluations"),
        (
            'name = "x"\npath = "texts.txt"\n[[probe]]\nname = "X"\npath = "texts.txt"',
            "probe[1].name: 'X' is the name of",
        ),
        ('name = "x"\npath = "none.txt"', "probe[0].path"),
        ('name = "x"\npath = "texts.txt"\ntask = {path = "texts.txt"}', "probe[0]: has two paths"),
        ('name = "x"\npath = "texts.txt"\ntask = {sampel_by = "line"}', "probe[0].task.sampel_by: unknown key"),
        ('name = "x"\ntask = {name = "wordnet_mqc"}', "task.name: no task is called 'wordnet_mqc' (did you mean"),
        ('name = "x"\nsplit = "tst"\ntask = {name = "wordnet_mcq"}', "probe[0].split: 'wordnet_mcq' has the splits"),
        (
            'name = "x"\npath = "texts.txt"\nmetric = "accuracy"',
            "probe[0].metric: no metric of language_modeling tasks computes 'accuracy'; its values are bits_per_byte",
        ),
        ('name = "x"\npath = "texts.txt"\nexamples = 0', "probe[0].examples: "),
        ('name = "x"\npath = "texts.txt"\nrows = 3', "probe[0].rows: unknown key"),
    ],
)
def test_what_is_wrong_with_a_probe_has_its_key(
    table: str, expected: str, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    errors = errors_of(write(tmp_path, table), registry)
    assert any(expected in error for error in errors), errors


@pytest.mark.parametrize(
    ("model", "more", "table", "expected"),
    [
        ("pocket-encoder", "", 'name = "x"\ntask = {name = "wordnet_glosses"}', "texts have no likelihood and no bits"),
        ("pocket-encoder", "", 'name = "x"\ntask = {name = "wordnet_topic"}', "an encoder predicts by a new head"),
        (
            "pocket-decoder",
            "[train.deepspeed]\nstage = 3",
            'name = "x"\ntask = {name = "wordnet_glosses"}',
            "train.deepspeed.stage: cannot be 3 with probes",
        ),
        ("pocket-t5", "", 'name = "x"\ntask = {name = "wordnet_glosses"}', None),
        ("pocket-decoder", "", 'name = "x"\ntask = {name = "wordnet_distractors"}', None),
    ],
)
def test_models_that_cannot_be_measured_are_refused_with_the_reason(
    model: str, more: str, table: str, expected: str | None, tmp_path: Path, registry: Registry
) -> None:
    errors = errors_of(write(tmp_path, table, model, more), registry)
    if expected is None:
        assert errors == []
    else:
        assert any(expected in error for error in errors), errors


def test_a_probe_has_the_metric_of_its_task_and_lengths_of_its_own(tmp_path: Path, registry: Registry) -> None:
    tables = [
        'name = "glosses"\nmax_source_length = 32\ntask = {name = "wordnet_glosses"}',
        'name = "topics"\nmetric = "accuracy_norm"\ntask = {name = "wordnet_topic"}',
        'name = "losses"\nmetric = "loss"\ntask = {name = "wordnet_topic"}',
    ]
    recipe = load_recipe(write(tmp_path, "\n[[probe]]\n".join(tables)), registry)
    first, second, third = recipe.probes
    assert (first.metric, first.higher_is_better) == ("bits_per_byte", False)
    assert [each.name for each in first.recipe.metric] == ["bits_per_byte"]
    assert (first.recipe.train.max_source_length, second.recipe.train.max_source_length) == (32, 512)
    assert (second.metric, second.higher_is_better) == ("accuracy_norm", True)
    assert (third.metric, third.higher_is_better, third.recipe.metric) == ("loss", False, ())
    path = tmp_path / "dumped.toml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path, registry).probe == recipe.probe
    built = Recipe.build(
        model="pocket-decoder",
        task="wordnet_mcq",
        method="lora",
        budget={"steps": 1},
        probe=[{"name": "glosses", "task": {"name": "wordnet_glosses"}}],
    )
    assert [each.name for each in built.probes] == ["glosses"]
