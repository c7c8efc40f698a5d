"""The tables of evaluation sets, and the tasks that they make."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftkit.plugins import Registry
from peftkit.recipe import dump_recipe, load_recipe
from peftkit.recipe.check_recipe import check_recipe

RECIPE = """\
[model]
name = "pocket-encoder"
[task]
name = "text_classification"
path = "train.csv"
delimiter = ";"
dev_fraction = 0.2
test_fraction = 0.2
[method]
name = "lora"
"""


@pytest.fixture
def recipe_file(folder: Path) -> Path:
    rows = [f"film {i};{'good' if i % 2 else 'bad'}\n" for i in range(20)]
    (folder / "train.csv").write_text("text;label\n" + "".join(rows))
    (folder / "hard.csv").write_text("text;label\n" + "".join(rows[:4]))
    (folder / "odd.csv").write_text("text;label\nfilm;god\n")
    (folder / "news.csv").write_text("text;label\nfilm;0\n")
    (folder / "stars.csv").write_text("review;stars\nfilm;2.5\n")
    return folder / "x.toml"


def test_a_set_has_the_options_of_the_task_but_not_its_place(recipe_file: Path, registry: Registry) -> None:
    sets = '[[evaluate.set]]\nname = "hard"\npath = "hard.csv"\ntask = {max_rows = 3}\nexamples = 2\n'
    recipe_file.write_text(RECIPE + sets + '[[evaluate.set]]\nname = "topics"\ntask.name = "wordnet_topic"\n')
    recipe = load_recipe(recipe_file, registry)
    hard, topics = recipe.evaluation_tasks
    task = hard.task.model_dump()
    assert [task[key] for key in ("path", "delimiter", "max_rows", "dev_fraction")] == ["hard.csv", ";", 3, None]
    assert (hard.name, hard.split, hard.examples, hard.at_end_only) == ("hard", "test", 2, False)
    assert (topics.task.name, topics.split, topics.at_end_only) == ("wordnet_topic", "test", False)
    (recipe_file.parent / "again.toml").write_text(dump_recipe(recipe))
    assert load_recipe(recipe_file.parent / "again.toml", registry) == recipe


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('name = "x"', "set[0]: needs a split, a path or a task whose rows are evaluated"),
        ('name = "test"\nsplit = "test"', "set[0].name: 'test' is the name of another entry of evaluations"),
        ('name = "a b"\npath = "hard.csv"', "set[0].name: must be a text in quotes, matching"),
        ('name = "x"\npth = "hard.csv"', "set[0].pth: unknown key;"),
        (
            'name = "x"\npath = "hrd.csv"',
            "set[0].path: the set 'x': there is no file 'hrd.csv' (did you mean 'hard.csv'?)",
        ),
        ('name = "x"\npath = "hard.csv"\nsplit = "hard"', "set[0].split: the set 'x': 'hard.csv' has no split 'hard'"),
        ('name = "x"\npath = "hard.csv"\ntask = {path = "hard.csv"}', "set[0]: has two paths, path and task.path"),
        ('name = "x"\ntask = {path = "hard.csv", max_rows = "3"}', "set[0].task.max_rows: must be a whole number"),
        ('name = "x"\ntask = {path = "hard.csv", text_lable = "t"}', "set[0].task.text_lable: unknown key;"),
        ('name = "x"\npath = "hard.csv"\ntask = {max_bad = 3}', "set[0].task.max_bad: has no effect, because"),
        (
            'name = "x"\ntask = {name = "text_acuracy"}',
            "set[0].task.name: no task is called 'text_acuracy'",
        ),
        ('name = "x"\ntask = {name = "text_generation", path = "hard.csv"}', "'text_generation' is a generation task"),
        ('name = "x"\ntask = {name = "multiple_choice"}', "set[0]: the set 'x': task.path: missing; it is required"),
        ('name = "x"\nsplit = "tst"\ntask = {name = "wordnet_topic"}', "'wordnet_topic' has the splits train, dev and"),
        (
            'name = "x"\npath = "odd.csv"',
            "set[0]: the set 'x': task.label_column: odd.csv, row 1: label: unknown label 'god' (did you mean",
        ),
        (
            'name = "x"\npath = "stars.csv"',
            "set[0]: the set 'x': task.text_column: stars.csv: there is no column 'text'",
        ),
        (
            'name = "x"\npath = "stars.csv"\ntask = {text_column = "review", label_column = "stas"}',
            "set[0].task.label_column: the set 'x': stars.csv: there is no column 'stas' (did you mean 'stars'?)",
        ),
        (
            'name = "x"\npath = "news.csv"\ntask = {name = "ag_news", delimiter = ";"}',
            "set[0]: the set 'x': task.label_column: news.csv, row 1: the model is not trained on the label 'World'",
        ),
        (
            'name = "x"\npath = "hard.csv"\n[[evaluate.set]]\nname = "X"\npath = "hard.csv"',
            "set[1].name: 'X' is the name",
        ),
    ],
)
def test_what_is_wrong_with_a_set_has_its_key(table: str, expected: str, recipe_file: Path, registry: Registry) -> None:
    recipe_file.write_text(f"{RECIPE}[[evaluate.set]]\n{table}\n")
    errors = [*map(str, check_recipe(recipe_file, registry).errors)]
    assert errors, "the recipe is refused"
    assert all("evaluate.set" in error for error in errors)
    assert any(expected in error for error in errors), errors


def test_valid_sets_are_ok_and_unchecked_ones_warned_of(recipe_file: Path, registry: Registry) -> None:
    recipe_file.write_text(f'{RECIPE}[[evaluate.set]]\nname = "x"\npath = "hard.csv"\n')
    report = check_recipe(recipe_file, registry)
    assert (report.errors, report.warnings) == ((), ())
    hub = RECIPE.replace('path = "train.csv"\ndelimiter = ";"', 'path = "owner/data"')
    recipe_file.write_text(f'{hub}[[evaluate.set]]\nname = "x"\npath = "hard.csv"\ntask = {{delimiter = ";"}}\n')
    [warning] = check_recipe(recipe_file, registry).warnings
    assert "only columns are checked" in str(warning)
