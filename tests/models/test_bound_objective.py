"""An objective is bound to the family of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from peftkit import Example, ObjectiveContext
from peftkit.components import ModelKind
from peftkit.components.inputs import Row
from peftkit.models import BoundObjective
from peftkit.objectives import LabelRanking
from peftkit.recipe.resolve import model_path
from tests.tiny_runs import ColourChoice, bind_objective, tiny

EXAMPLES = [Example("sky", "blue", ("red", "blue")), Example("a stone", "red", ("red", "blue"))]
EXAMPLES.append(Example("a train that runs on coal", "red", ("red", "blue")))


def bound(kind: ModelKind) -> tuple[nn.Module, BoundObjective]:
    model, name = tiny(kind)
    tokenizer = AutoTokenizer.from_pretrained(model_path(name))
    return model.eval(), bind_objective(kind, tokenizer, model.config, "classification")


class Doubled(LabelRanking):
    """Counts everything twice, and names its task in each row."""

    name: Literal["doubled"] = "doubled"  # type: ignore[assignment]

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        rows = super().tokenize(examples, context, training=training)
        return [{**row, "task": context.task.name} for row in rows]

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        return {**super().collate(rows, context), "twos": torch.full((len(rows),), 2.0)}

    def num_targets(self, batch: Mapping[str, Tensor], context: ObjectiveContext) -> Tensor:
        return super().num_targets(batch, context) * 2

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor], context: ObjectiveContext) -> Tensor:
        return super().loss(model, batch, context) * batch["twos"][0]


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_every_step_is_that_of_the_objective(kind: ModelKind) -> None:
    model, plain = bound(kind)
    doubled = replace(plain, component=Doubled())
    rows = doubled.tokenize(EXAMPLES, training=True)
    assert {row["task"] for row in rows} == {"colours"}
    batch = doubled.collate(rows)
    expected = plain.collate(plain.tokenize(EXAMPLES, training=True))
    assert {key for key in batch if key not in expected} == {"twos"}
    with torch.no_grad():
        assert doubled.loss(model, batch).item() == pytest.approx(2 * plain.loss(model, expected).item())
        assert doubled.num_targets(batch).item() == 2 * plain.num_targets(expected).item()
        parts = list(doubled.microbatches(batch, 2))
        assert [len(part["labels"]) for part in parts] == [len(part["twos"]) for part in parts] == [2, 1]
        whole = doubled.loss(model, batch).item()
        assert sum(doubled.loss(model, part).item() for part in parts) == pytest.approx(whole, rel=1e-5)


def test_another_version_of_the_task_reaches_the_objective() -> None:
    _, plain = bound("decoder")
    doubled, task = replace(plain, component=Doubled()), ColourChoice()
    other = doubled.with_task(task)
    assert other.task is task
    assert doubled.task is plain.task is not task
    assert {row["task"] for row in other.tokenize(EXAMPLES, training=False)} == {"colour_choice"}
    assert (other.component, other.family, other.auto_class) == (doubled.component, plain.family, plain.auto_class)
