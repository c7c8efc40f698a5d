"""Problems of data and options, with the place of their key in the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from peftkit import Method
from peftkit.components import OptionProblem, Task
from peftkit.errors import InputError, PluginError
from peftkit.plugins import Entry, Registry
from peftkit.recipe import load_recipe
from peftkit.recipe.check_recipe import RecipeReport, check_method_options, check_recipe
from peftkit.recipe.recipe import Recipe
from peftkit.recipe.recipe_file import KeyLocation, MigratedKey, RawRecipe


class Picky(Method):
    name: Literal["picky"] = "picky"
    size: int = 1

    def find_option_problems(self, model_kind: Any) -> Sequence[OptionProblem]:
        return [OptionProblem("size", f"must be 1 for a {model_kind}")] if self.size != 1 else []


class Local(Task):
    name: Literal["local"] = "local"
    kind = "classification"
    metrics = ("accuracy",)
    selection_metric = "accuracy"
    file: str = "x"

    def find_data_problems(self, *, download: bool = False) -> Sequence[OptionProblem]:
        if self.file == "raises":
            raise KeyError("row")
        warning = OptionProblem("file", "is short", is_error=False)
        return [warning, *([OptionProblem("file", "has no rows")] if download else [])]


RECIPE = """\
[model]
name = "pocket-t5"
[task]
name = "local"
file = "y"
[method]
name = "picky"
size = 2
"""


@pytest.fixture
def extended(registry: Registry) -> Registry:
    entries = (Entry("method", "picky", Picky, "tests", "0"), Entry("task", "local", Local, "tests", "0"))
    return replace(registry, entries=(*registry.entries, *entries))


def check(folder: Path, registry: Registry, *overrides: str, **options: Any) -> RecipeReport:
    (folder / "x.toml").write_text(RECIPE)
    return check_recipe("x.toml", registry, overrides, **options)


def test_problems_have_the_line_of_their_key(folder: Path, extended: Registry) -> None:
    report = check(folder, extended)
    assert report.recipe is None
    assert [*map(str, report.errors)] == ["x.toml:8: method.size: must be 1 for a encoder-decoder"]
    assert [*map(str, report.warnings)] == ["x.toml:5: task.file: is short"]


def test_problems_of_keys_data_and_options_are_reported_together(folder: Path, extended: Registry) -> None:
    report = check(folder, extended, "train.batch_size=0", data=True)
    assert [problem.key for problem in report.errors] == ["task.file", "method.size", "train.batch_size"]


def test_invalid_tables_are_not_checked_further(folder: Path, extended: Registry) -> None:
    report = check(folder, extended, "task.fil=1", "method.length=1", data=True)
    assert [problem.key for problem in report.errors] == ["task.fil", "method.length"]


def test_data_are_not_checked_without_data(folder: Path, extended: Registry) -> None:
    report = check(folder, extended, "method.size=1", data=False)
    assert (report.errors, report.warnings) == ((), ())
    assert report.recipe is not None


def test_valid_keys_are_checked_further(folder: Path, extended: Registry) -> None:
    def further(recipe: Recipe) -> list[tuple[tuple[str | int, ...], str]]:
        return [(("method", "name"), f"{recipe.method.name} is slow")]

    report = check(folder, extended, "method.size=1", further=further)
    assert [*map(str, report.errors)] == ["x.toml:7: method.name: picky is slow"]
    others = check(folder, extended, "train.batch_size=0", "method.size=1", further=further).errors
    assert [problem.key for problem in others] == ["method.name", "train.batch_size"]
    assert [problem.key for problem in check(folder, extended, "method.name=pick", further=further).errors] == [
        "method.name"
    ]


def test_an_exception_of_a_plugin_is_reported(folder: Path, extended: Registry) -> None:
    with pytest.raises(PluginError, match="'local' failed while it was checked: KeyError: 'row'"):
        check(folder, extended, "task.file=raises")


def test_a_run_reports_options_before_it_loads_the_model(folder: Path, extended: Registry) -> None:
    (folder / "x.toml").write_text(RECIPE)
    with pytest.raises(InputError, match=r"method\.size: must be 1"):
        check_method_options(load_recipe("x.toml", extended))
    check_method_options(load_recipe("x.toml", extended, ["method.size=1"]))


@pytest.mark.parametrize("kind", [RecipeReport, RawRecipe, KeyLocation, MigratedKey])
def test_what_is_read_is_frozen(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen
