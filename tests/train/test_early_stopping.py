from __future__ import annotations

import json
import math
import shutil
from typing import Any

import pytest
from torch import nn

from peftkit.components import EvaluationResult, TrainContext
from peftkit.errors import RecipeError
from peftkit.plugins import Registry
from peftkit.recipe.tables.train_config import EarlyStoppingConfig
from peftkit.run_directory import RunDirectory
from peftkit.train.early_stopping import EarlyStopping
from peftkit.train.run import run
from tests.tiny_runs import Make
from tests.train.test_resume import outcome

NAN = math.nan


def evaluations_until_stop(
    scores: list[float], patience: int, min_delta: float = 0.0, *, higher_is_better: bool = True
) -> int | None:
    """The number of evaluations after which training ends; the state goes through JSON before each."""
    reasons: list[str] = []
    numbers: dict[str, Any] = dict.fromkeys(("step", "epoch", "samples", "tokens", "seconds", "num_processes"), 1)
    context = TrainContext(model=nn.Identity(), folder=None, budget_used=0.5, stop=reasons.append, **numbers)
    config = EarlyStoppingConfig(patience=patience, min_delta=min_delta)
    early_stopping = EarlyStopping(config)
    for number, score in enumerate(scores, 1):
        state = json.loads(json.dumps(early_stopping.state_dict()))
        early_stopping = EarlyStopping(config)
        early_stopping.load_state_dict(state)
        row = {"dev": {"score": score}}
        result = EvaluationResult(row, "score", higher_is_better=higher_is_better, is_best=False)
        early_stopping.on_evaluate(context, result)
        if reasons:
            return number
    return None


@pytest.mark.parametrize(
    ("scores", "patience", "min_delta", "higher_is_better", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], 1, 0.0, True, None),
        ([0.1, 0.1], 1, 0.0, True, 2),
        ([0.1, 0.1, 0.2, 0.2, 0.2], 2, 0.0, True, 5),
        ([0.5, 0.4, 0.6, 0.5, 0.7, 0.6], 2, 0.0, True, None),
        ([0.10, 0.14, 0.18], 2, 0.05, True, None),  # compared with the best one, not the last one
        ([0.10, 0.14, 0.15], 2, 0.05, True, 3),
        ([3.0, 2.0, 1.0], 1, 0.0, False, None),
        ([3.0, 4.0], 1, 0.0, False, 2),
        ([NAN, 0.1, NAN, 0.2], 2, 0.0, True, None),
        ([0.1, NAN, NAN], 2, 0.0, True, 3),
        ([NAN, NAN], 2, 0.0, True, 2),
    ],
)
def test_training_ends_after_evaluations_without_improvement(
    scores: list[float], patience: int, min_delta: float, higher_is_better: bool, expected: int | None
) -> None:
    assert evaluations_until_stop(scores, patience, min_delta, higher_is_better=higher_is_better) == expected


OPTIONS = (
    "train.learning_rate=1e-30",  # no score changes
    "train.budget.steps=12",
    "train.early_stopping.patience=3",
    "evaluate.every=2 steps",
)


def test_a_run_that_does_not_improve_ends_early_and_says_so(
    make: Make, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(make("decoder", *OPTIONS), registry)
    assert path is not None
    summary = RunDirectory(path).summary()
    assert [row["step"] for row in RunDirectory(path).evaluations()] == [0, 2, 4, 6]
    assert (summary["status"], summary["steps"], summary["selected"]["step"]) == ("done", 6, 0)
    reason = "dev accuracy did not improve in the last 3 evaluations"
    assert summary["stopped_early"] == {"callback": "train.early_stopping", "reason": reason}
    assert f"stopped early by train.early_stopping: {reason}" in capsys.readouterr().out


def test_a_run_whose_budget_ends_with_the_last_evaluation_did_not_stop_early(make: Make, registry: Registry) -> None:
    path = run(make("decoder", *OPTIONS, "train.budget.steps=6"), registry)
    assert path is not None
    assert RunDirectory(path).summary()["steps"] == 6
    assert RunDirectory(path).summary()["stopped_early"] is None


def test_a_run_that_improves_uses_its_budget(make: Make, registry: Registry) -> None:
    options = ("train.early_stopping.patience=1", "evaluate.selection_metric=loss", "evaluate.every=3 steps")
    path = run(make("decoder", "train.learning_rate=1e-3", *options), registry)
    assert path is not None
    assert RunDirectory(path).summary()["steps"] == 6
    assert RunDirectory(path).summary()["stopped_early"] is None


@pytest.mark.parametrize("step", [3, 4, 6])
def test_a_resumed_run_stops_at_the_same_step(step: int, make: Make, registry: Registry) -> None:
    recipe = make("decoder", *OPTIONS, "train.checkpoint.every=1 steps", "train.checkpoint.keep=9")
    path = run(recipe, registry)
    assert path is not None
    expected = outcome(path)
    for later in sorted((path / "checkpoints").iterdir())[step:]:
        shutil.rmtree(later)
    (path / "summary.json").unlink()
    assert run(recipe, registry, resume=str(path)) == path
    assert outcome(path) == expected
    summary = RunDirectory(path).summary()
    assert (summary["resumed_after_steps"], summary["steps"]) == ([step], 6)
    assert summary["stopped_early"]["callback"] == "train.early_stopping"


def test_patience_is_required(make: Make) -> None:
    with pytest.raises(RecipeError, match=r"train\.early_stopping\.patience: missing; it is required: a whole number"):
        make("decoder", "train.early_stopping.min_delta=0.1")
