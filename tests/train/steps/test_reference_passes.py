"""An objective that compares with the base model, and whose losses depend on sums over all rows of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from peftkit import Method, ObjectiveContext
from peftkit.methods.full import Full
from peftkit.methods.lora import Lora
from peftkit.objectives import ChoiceRanking
from peftkit.run_directory import RunDirectory
from peftkit.testing import check_objective
from peftkit.testing.run_checks import recipe_maker, registry_with
from peftkit.train.run import run
from peftkit.train.steps.reference_passes import DISABLED, STORED, count_reference_passes
from tests.tiny_runs import ColourChoice


class Reluctant(ChoiceRanking):
    """Trains answers to become more likely than under the base model, compared with all answers of a step."""

    name: Literal["reluctant"] = "reluctant"  # type: ignore[assignment]

    task_kind = "multiple_choice"
    needs_reference = True

    def tokenize(self, examples: Any, context: ObjectiveContext, *, training: bool) -> Any:
        return context.family.tokenize_completions(examples, ranked=True)

    def collate(self, rows: Sequence[Any], context: ObjectiveContext) -> dict[str, Tensor]:
        answers = torch.tensor([row["answer"] for row in rows])
        return {
            **context.family.collate_candidates(rows),
            **context.reference.collate(rows),
            "answers": answers,
        }

    def num_targets(self, batch: Any, context: ObjectiveContext) -> Tensor:
        return torch.tensor(len(batch["answers"]))

    def batch_statistics(self, model: nn.Module, batch: Any, context: ObjectiveContext) -> dict[str, Tensor]:
        gains = self._gains(model, batch, context)
        return {"gain": gains.sum(), "number": gains.new_tensor(len(gains))}

    def loss(self, model: nn.Module, batch: Any, context: ObjectiveContext) -> Tensor:
        mean = batch["gain"] / batch["number"]
        return nn.functional.softplus(20 * mean - self._gains(model, batch, context)).sum()

    def _gains(self, model: nn.Module, batch: Any, context: ObjectiveContext) -> Tensor:
        reference = context.reference.loglikelihoods(model, batch)
        sums, _ = context.family.target_loglikelihoods(model, batch)
        return (sums - reference).view(len(batch["answers"]), -1).gather(1, batch["answers"][:, None])[:, 0]


OBJECTIVE, TASK = Reluctant(), ColourChoice()


def train(method: Method, folder: Path, *overrides: str) -> RunDirectory:
    changes = {"objective": OBJECTIVE.model_dump(), "task": TASK.model_dump()}
    make = recipe_maker(method, "llama", folder, OBJECTIVE, TASK, changes=changes)
    path = run(make("run", *overrides), registry_with(OBJECTIVE, TASK), quiet=True)
    assert path is not None
    return RunDirectory(path)


def test_such_an_objective_conforms(tmp_path: Path) -> None:
    check_objective(OBJECTIVE, TASK, tmp_path, runs=False)


@pytest.mark.parametrize("method", [Full(), Lora()], ids=lambda each: each.name)
def test_passes_are_part_of_the_cost_and_sums_are_over_whole_steps(method: Method, tmp_path: Path) -> None:
    rate = "train.learning_rate=0.5"
    whole = train(method, tmp_path / "whole", rate)
    parts = train(method, tmp_path / "parts", rate, "train.batch_size=4", "train.gradient_accumulation_steps=2")
    losses = [[row["train"]["step_loss"] for row in each.evaluations()[1:]] for each in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4, abs=1e-6)
    assert any(abs(loss - math.log(2)) > 1e-2 for loss in losses[0])
    reference, start = whole.summary()["reference"], whole.evaluations()[0]["cost"]["gmacs"]
    assert reference["from"] == (STORED if method.name == "full" else DISABLED)
    assert start == reference.get("gmacs", 0.0)
    if reference["from"] == STORED:
        assert start > 0
        assert whole.evaluations()[0]["cost"]["train_seconds"] > 0


def test_an_objective_without_reference_has_no_such_entry(tmp_path: Path) -> None:
    make = recipe_maker(Full(), "llama", tmp_path)
    path = run(make("run", "train.budget.steps=1"), registry_with(), quiet=True)
    assert path is not None
    assert "reference" not in RunDirectory(path).summary()


def test_it_is_an_error_to_compare_without_declaring_it() -> None:
    context: Any = ObjectiveContext(None, "decoder", None, None, TASK)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="needs needs_reference = True"):
        _ = context.reference


def test_passes_before_training_have_no_backward(tmp_path: Path) -> None:
    from accelerate import Accelerator

    from peftkit.data.pipeline import prepare_data
    from peftkit.models.load_base_model import load_base

    changes = {"objective": OBJECTIVE.model_dump(), "task": TASK.model_dump()}
    recipe = recipe_maker(Full(), "t5", tmp_path, OBJECTIVE, TASK, changes=changes)("x")
    rows: Any = prepare_data(recipe, load_base(recipe).objective, Accelerator(cpu=True), only_train=True).train
    counted = count_reference_passes(recipe, rows)
    assert counted.forward_macs > 0
    assert counted.backward_macs == 0
