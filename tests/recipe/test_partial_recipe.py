"""Every check whose keys are valid is made, whatever else is invalid."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from peftkit.plugins import Registry
from peftkit.recipe.check_recipe import RecipeReport, check_recipe
from peftkit.recipe.partial_recipe import InvalidKeyError, listed, partial_recipe, without_keys
from tests.recipe.conftest import CheckErrors

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Fault:
    """Values that make one check fail, and the keys that the check needs besides."""

    values: Mapping[Path_, Any]
    needs: tuple[Path_, ...] = ()

    def is_independent_of(self, other: Fault) -> bool:
        """Whether the other fault changes nothing that this one's check needs."""
        used = (*self.values, *self.needs)
        return not any(a[: len(b)] == b[: len(a)] for a in used for b in other.values)


TASK: tuple[Path_, ...] = (("task",),)
MODEL: tuple[Path_, ...] = (("model", "name"),)
METRICS: tuple[Path_, ...] = (*TASK, ("metric",))
FAULTS = {
    "the name of the run": Fault({("run", "name"): "a b"}),
    "a seed": Fault({("run", "seed"): -1}),
    "a share that is not used": Fault({("run", "subset_fraction"): 0.5}, (("run", "resample_train"),)),
    "the model": Fault({("model", "name"): "pocket-t6"}),
    "a revision": Fault({("model", "revision"): "main"}, MODEL),
    "a head": Fault({("model", "keep_head"): True}, MODEL),
    "a precision": Fault({("model", "dtype"): "float64", ("train", "mixed_precision"): "bf16"}),
    "the task": Fault({("task", "name"): "text_classifier"}),
    "a column": Fault({("task", "label_column"): "wrong"}, TASK),
    "a file": Fault({("task", "path", "dev"): "missing.csv"}, TASK),
    "an option of the task": Fault({("task", "limit"): -1}, TASK),
    "the method": Fault({("method", "name"): "loraa"}),
    "an option of the method": Fault({("method", "num_virtual_tokens"): "x"}, (("method", "name"),)),
    "an unknown option": Fault({("method", "length"): 3}, (("method", "name"),)),
    "an incompatibility": Fault({("train", "gradient_checkpointing"): True}, (("method",), ("model",))),
    "the objective": Fault({("objective", "name"): "choice_ranking"}, TASK),
    "a batch": Fault({("train", "batch_size"): 0}),
    "a budget": Fault({("train", "budget", "steps"): 0}),
    "joules": Fault({("train", "budget", "joules"): 3.0}),
    "an optimizer": Fault({("train", "optimizer"): "addam"}),
    "options of the optimizer": Fault({("train", "optimizer_options", "momentums"): 0.9}, (("train", "optimizer"),)),
    "an interval": Fault({("train", "checkpoint", "every"): "often"}),
    "another interval": Fault({("evaluate", "every"): "often"}),
    "the patience": Fault({("train", "early_stopping", "min_delta"): 0.1}),
    "offloading": Fault({("train", "deepspeed", "offload_optimizer"): "cpu"}, (("train", "deepspeed"),)),
    "the selection": Fault({("evaluate", "selection_metric"): "acuracy"}, METRICS),
    "an unknown metric": Fault({("metric", 0, "name"): "acuracy"}),
    "a metric of other tasks": Fault({("metric", 1, "name"): "rouge"}, TASK),
    "a metric that is listed twice": Fault({("metric", 2, "name"): "f1_macro"}, (("metric", 1),)),
    "a callback": Fault({("callback", 0, "name"): "no_such"}),
    "a tracker": Fault({("track", "to"): ["mlflow"]}),
    "an unknown key": Fault({("train", "epochs"): 3}),
    "an unknown table": Fault({("evaluation",): {"every": "10%"}}),
    "a date": Fault({("track", "project"): date(2026, 1, 1)}),
}


def base() -> dict[str, Any]:
    return {
        "run": {"name": "x", "seed": 1, "output": "runs"},
        "model": {"name": "pocket-t5", "dtype": "float32"},
        "task": {
            "name": "text_classification",
            "label_column": "label",
            "path": {split: f"{split}.csv" for split in ("train", "dev", "test")},
        },
        "method": {"name": "prefix_tuning", "num_virtual_tokens": 2},
        "train": {"batch_size": 2, "optimizer": "sgd", "mixed_precision": "no", "budget": {"steps": 3}},
        "evaluate": {"every": "10%"},
        "metric": [{"name": "accuracy"}, {"name": "f1_macro"}, {"name": "recall_macro"}],
        "track": {"to": []},
    }


@pytest.fixture
def rows(folder: Path) -> Path:
    for split in ("train", "dev", "test"):
        lines = [f"text {split} {i},{'ab'[i % 2]}" for i in range(8)]
        (folder / f"{split}.csv").write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return folder


def check(folder: Path, registry: Registry, *faults: Fault) -> RecipeReport:
    tables = base()
    for fault in faults:
        for path, value in fault.values.items():
            table: Any = tables
            for key, following in pairwise(path):
                if isinstance(table, dict):
                    table = table.setdefault(key, [] if isinstance(following, int) else {})
                else:
                    table.extend({} for _ in range(int(key) + 1 - len(table)))
                    table = table[int(key)]
            table[path[-1]] = value
    (folder / "x.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    return check_recipe("x.toml", registry)


def problems_of(report: RecipeReport) -> list[tuple[str, str]]:
    return [(problem.key, problem.text) for problem in report.errors]


def subsets() -> Iterator[tuple[str, ...]]:
    yield from combinations(FAULTS, 2)
    draw = random.Random(0)
    for size in (3, 5, 8, 12, 20):
        for _ in range(20):
            yield tuple(draw.sample(sorted(FAULTS), size))


def test_the_recipe_without_faults_is_valid(rows: Path, registry: Registry) -> None:
    report = check(rows, registry)
    assert (report.errors, report.warnings) == ((), ())


def test_problems_of_several_faults_contain_those_of_each(rows: Path, registry: Registry) -> None:
    alone = {name: problems_of(check(rows, registry, fault)) for name, fault in FAULTS.items()}
    assert [name for name, problems in alone.items() if not problems] == []
    for names in subsets():
        report = check(rows, registry, *(FAULTS[name] for name in names))
        reported = problems_of(report)
        assert len(set(reported)) == len(reported), names
        lines = [problem.line or 0 for problem in report.errors]
        assert lines == sorted(lines), names
        for name in names:
            others = [FAULTS[other] for other in names if other != name]
            if all(FAULTS[name].is_independent_of(other) for other in others):
                missing = [problem for problem in alone[name] if problem not in reported]
                assert not missing, (names, missing, reported)
        allowed = {key for name in names for key, _ in alone[name]}
        assert {key for key, _ in reported} <= allowed, (names, reported)


@pytest.mark.parametrize("other", ["a budget", "the method", "the model", "an unknown metric", "an unknown table"])
def test_data_are_checked_whatever_else_is_wrong(other: str, rows: Path, registry: Registry) -> None:
    for name in ("a column", "a file"):
        keys = [key for key, _ in problems_of(check(rows, registry, FAULTS[name], FAULTS[other]))]
        assert any(key.startswith("task.") for key in keys), (name, other, keys)


def test_incompatibilities_that_depend_on_an_invalid_key_are_not_reported(
    valid_recipe: str, check_errors: CheckErrors
) -> None:
    (error,) = check_errors({"x.toml": valid_recipe.replace("lora", "adalora")}, "train.budget={tokens=5, steps=0}")
    assert "train.budget.steps" in error
    known, invalid = check_errors(
        {"x.toml": valid_recipe.replace("lora", "adalora")}, "train.budget={tokens=5}", "train.batch_size=0"
    )
    assert "x.toml:8: method.name: 'adalora' is incompatible with this recipe" in known
    assert "train.batch_size" in invalid


def test_an_invalid_key_cannot_be_read(rows: Path, registry: Registry) -> None:
    data = base()
    paths: list[Path_] = [("train", "budget", "steps"), ("metric", 0, "name"), ("model", "name"), ("method", "x")]
    recipe = partial_recipe(data, paths, registry)
    assert recipe is not None
    assert recipe.model.dtype == "float32"
    assert [index for index, _ in listed(recipe, "metric")] == [1, 2]
    assert recipe.objectives_for("encoder")[0].task_kind == "classification"
    for read in (
        lambda r: r.model.name,
        lambda r: r.method,
        lambda r: r.metric,
        lambda r: r.train.budget,
        lambda r: r.higher_is_better("accuracy"),
    ):
        with pytest.raises(InvalidKeyError):
            read(recipe)
    without = without_keys(recipe, [("train", "optimizer_options", "lr"), ("evaluate", "every"), ("run",)])
    assert without.train.batch_size == 2
    for read in (lambda r: r.train.optimizer_options, lambda r: r.evaluate.every, lambda r: r.run, lambda r: r.method):
        with pytest.raises(InvalidKeyError):
            read(without)
