"""Regression: heads with an output for each target, and generated numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from peftkit import Example
from peftkit.components import Objective
from peftkit.components.objective_context import ObjectiveContext
from peftkit.errors import InputError, RowError
from peftkit.objectives import NumberGeneration, RegressionHead
from peftkit.testing import check_objective
from tests.tiny_runs import ColourNumber

EXAMPLES = [Example("a", "1.0, 10"), Example("b", "2.0, 10"), Example("c", "6.0, 40")]
TWO = ColourNumber(two=True)


@pytest.mark.parametrize(
    ("objective", "architectures"),
    [
        pytest.param(RegressionHead(mean=(0.5, 2), std=(0.4, 1.1)), {"encoder": "bert"}, id="standardized"),
        *(
            pytest.param(RegressionHead(), {"encoder": name}, id=name, marks=(pytest.mark.slow, pytest.mark.exhaustive))
            for name in ("roberta", "distilbert", "modernbert", "deberta-v2", "albert", "electra")
        ),
        *(
            pytest.param(NumberGeneration(), architectures, id=name, marks=(pytest.mark.slow, pytest.mark.exhaustive))
            for name, architectures in (
                ("bart and gpt2", {"encoder-decoder": "bart", "decoder": "gpt2"}),
                ("t5 and qwen2", {"encoder-decoder": "t5", "decoder": "qwen2"}),
                ("gemma2", {"decoder": "gemma2"}),
                ("phi", {"decoder": "phi"}),
            )
        ),
    ],
)
def test_several_targets_conform(objective: Objective, architectures: Any, tmp_path: Path) -> None:
    task = ColourNumber(two=True, pair="encoder" in architectures)
    check_objective(objective, task, tmp_path, runs=False, architectures=architectures)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("objective", [RegressionHead(), NumberGeneration()], ids=lambda each: each.name)
def test_whole_runs_conform(objective: Objective, tmp_path: Path) -> None:
    check_objective(objective, ColourNumber(), tmp_path)


def test_the_constants_to_try_are_mean_and_median() -> None:
    assert RegressionHead().possible_answers(TWO, EXAMPLES) == ("3.0, 20.0", "2.0, 10.0")


def test_the_typical_answer_is_the_mean_of_the_training_rows() -> None:
    assert NumberGeneration().typical_answer({"1.0, 10": 3, "5, 50": 1}) == "2.0, 20.0"


def test_one_target_has_no_name_and_several_have() -> None:
    assert RegressionHead().head(ColourNumber()).labels == ()
    head = RegressionHead().head(TWO)
    assert (head.outputs, head.labels, head.problem_type) == (2, ("colour", "words"), "regression")


def test_as_many_means_as_targets_are_needed() -> None:
    with pytest.raises(InputError, match=r"objective\.mean: has 3 numbers, but the task has 2"):
        RegressionHead(mean=(1, 2, 3)).head(TWO)


def test_a_target_that_is_no_number_is_an_error_of_the_row() -> None:
    context: Any = SimpleNamespace(task=TWO)
    with pytest.raises(RowError, match=r"target: '1\.0' must be 2 numbers"):
        RegressionHead().tokenize([Example("a", "1.0")], context, training=True)


def test_predictions_are_on_the_scale_of_the_data() -> None:
    family = SimpleNamespace(
        collate=lambda rows: {"input_ids": torch.ones(len(rows), 2)},
        outputs_without_padding_effects=lambda model, batch: torch.tensor([[0.5], [-1.0]]),
    )
    services: Any = family
    context = ObjectiveContext(services, "encoder", None, None, ColourNumber())
    objective, rows = RegressionHead(mean=1000, std=100), [{"targets": [1050.0]}, {"targets": [1000.0]}]
    assert objective.collate(rows, context)["labels"].tolist() == [[0.5], [0.0]]
    predictions = objective.predict(torch.nn.Linear(1, 1), rows, [], context, has_targets=True)
    assert [p["prediction"] for p in predictions] == ["1050.0", "900.0"]
    assert [(p["values"], p["loss"], p["tokens"]) for p in predictions] == [([1050.0], 0.0, 1), ([900.0], 1.0, 1)]
    assert "output × 100.0 + 1000.0" in objective.describe_outputs(ColourNumber(), {})
    assert RegressionHead().describe_outputs(ColourNumber(), {}) == ""
