"""The code of a model card loads the class and the head that the objective needs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from peftkit import Head, Task
from peftkit.inference.model_card import _loading_code
from peftkit.objectives import ClassificationHead, MultiLabelHead, RegressionHead
from tests.tiny_runs import ColourNumber, ColourSet, Make


class TwoOutputs(ClassificationHead):
    """An objective with a head of its own."""

    name: Literal["two_outputs"] = "two_outputs"  # type: ignore[assignment]

    def head(self, task: Task) -> Head:
        return Head(2, auto_class="AutoModelForTokenClassification")


@pytest.mark.parametrize(
    ("kind", "task", "auto_class", "options"),
    [
        ("encoder", "colours", "AutoModelForSequenceClassification", ", num_labels=3, ignore_mismatched_sizes=True"),
        ("encoder", "colour_choice", "AutoModelForSequenceClassification", ", num_labels=1, ignore_mism"),
        ("decoder", "colours", "AutoModelForCausalLM", ")"),
        ("encoder-decoder", "colour_text", "AutoModelForSeq2SeqLM", ")"),
    ],
)
def test_the_code_has_the_head_of_the_task(
    kind: str, task: str, auto_class: str, options: str, make: Make, tmp_path: Path
) -> None:
    recipe = make(kind, f"task.name={task}", "method.name=lora")
    code = "\n".join(_loading_code(tmp_path, {"model_kind": kind, "parameters": {}}, recipe, merged=False))
    assert f"base = {auto_class}.from_pretrained({recipe.model.name!r}, dtype=torch.float32{options}" in code


def test_the_code_has_the_head_of_the_objective(make: Make, tmp_path: Path) -> None:
    recipe = make("encoder", "method.name=lora").model_copy(update={"objective": TwoOutputs()})
    code = "\n".join(_loading_code(tmp_path, {"model_kind": "encoder", "parameters": {}}, recipe, merged=False))
    assert "from transformers import AutoModelForTokenClassification\n" in code
    assert "dtype=torch.float32, num_labels=2, ignore_mismatched_sizes=True)" in code


def test_the_code_has_the_problem_type_and_what_outputs_mean(make: Make, tmp_path: Path) -> None:
    update = {"task": ColourNumber(), "objective": RegressionHead(mean=3, std=2)}
    recipe = make("encoder", "method.name=lora").model_copy(update=update)
    code = "\n".join(_loading_code(tmp_path, {"model_kind": "encoder", "parameters": {}}, recipe, merged=False))
    assert ", problem_type='regression', num_labels=1, ignore_mismatched_sizes=True)" in code
    assert "a prediction is output × 2.0 + 3.0" in code
    recipe = recipe.model_copy(update={"task": ColourSet(), "objective": MultiLabelHead()})
    summary = {"model_kind": "encoder", "parameters": {}, "selected": {"calibration": {"thresholds": 0.31}}}
    assert "at least its threshold: 0.31." in "\n".join(_loading_code(tmp_path, summary, recipe, merged=False))
