"""What those score that do not read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from peftkit import Example, Task
from peftkit.errors import RunError
from peftkit.plugins import Registry
from peftkit.runner import run
from peftkit.runner.baselines import baselines
from peftkit.runner.data import prepare
from peftkit.runner.models import load_base
from peftkit.runs import RunDirectory
from tests.runner.conftest import Make


def test_constants_score_the_share_of_their_label(make: Make) -> None:
    recipe = make("decoder")
    found = baselines(recipe, prepare(recipe, load_base(recipe).form, Accelerator(cpu=True)))
    golds = [row["colour"] for row in recipe.task.load()["test"]]
    assert found["constant"]["test"]["accuracy"] == pytest.approx(max(map(golds.count, golds)) / len(golds))
    assert found["majority"]["test"]["accuracy"] == pytest.approx(golds.count("blue") / len(golds))
    assert 0.0 < found["random"]["test"]["accuracy"] < 0.8
    assert found == baselines(recipe, prepare(recipe, load_base(recipe).form, Accelerator(cpu=True)))


def test_a_constant_choice_is_a_place_and_not_a_text(make: Make) -> None:
    recipe = make("decoder", "task.name=colour_choice")
    found = baselines(recipe, prepare(recipe, load_base(recipe).form, Accelerator(cpu=True)))
    golds = [recipe.task.encode(row).candidates.index(row["colour"]) for row in recipe.task.load()["test"]]
    assert found["constant"]["test"]["accuracy"] == pytest.approx(max(map(golds.count, golds)) / len(golds))


def test_free_text_has_baselines_too(make: Make) -> None:
    recipe = make("decoder", "task.name=colour_text")
    found = baselines(recipe, prepare(recipe, load_base(recipe).form, Accelerator(cpu=True)))
    assert found["majority"]["test"]["exact_match"] == pytest.approx(1 / 3)


def test_every_run_stores_them_with_what_its_data_share(make: Make, registry: Registry) -> None:
    path = run(make("decoder", "train.budget.steps=1"), registry)
    assert path is not None
    summary = RunDirectory(path).summary()
    assert summary["baselines"].keys() == {"constant", "majority", "random"}
    assert summary["baselines"]["majority"]["test"]["accuracy"] == pytest.approx(1 / 3)
    assert summary["rows_also_in_train"].keys() == {"dev", "test"}
    assert summary["rows_cut"]["test"] == {"sources": 0, "targets": 0}


@pytest.mark.parametrize(
    ("task", "words"),
    [("colours", "the answer is 'red'"), ("colour_choice", "choice 2 is right"), ("colour_text", "the answer is")],
)
def test_data_on_which_one_answer_is_always_right_are_refused(
    task: str, words: str, make: Make, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make("decoder", f"task.name={task}", "train.budget.steps=1")

    def encode(self: Task, row: Mapping[str, Any]) -> Example:
        choices = ("green", "red", "blue") if task != "colour_text" else ()
        return Example(f"say {row}", "red", choices)

    monkeypatch.setattr(type(recipe.task), "encode", encode)
    with pytest.raises(RunError, match=f"in every row of dev {words}.* reads nothing scores 1"):
        run(recipe, registry)
    assert not list(Path(recipe.run.output).glob("*"))
