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
from peftkit.components.types import Row
from peftkit.models import BoundObjective
from peftkit.objectives import LabelRanking
from peftkit.recipe.model_names import model_path
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


class Hinge(LabelRanking):
    """The least difference of log-likelihoods between the target and the other candidates of a row."""

    name: Literal["hinge"] = "hinge"  # type: ignore[assignment]

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        return context.family.tokenize_completions(examples, ranked=True)

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        answers = torch.tensor([row["answer"] for row in rows])
        return {**context.family.collate_candidates(rows), "answers": answers}

    def num_targets(self, batch: Mapping[str, Tensor], context: ObjectiveContext) -> Tensor:
        return torch.tensor(len(batch["answers"]))

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor], context: ObjectiveContext) -> Tensor:
        sums, _ = context.family.target_loglikelihoods(model, batch)
        rows = zip(sums.split(batch["choices"].tolist()), batch["answers"].tolist(), strict=True)
        return torch.stack([(torch.cat([s[:a], s[a + 1 :]]).max() - s[a]).relu() + s[a] for s, a in rows]).sum()


SEVERAL = [
    Example("a bird", "robin", ("robin", "a steam locomotive", "granite")),
    Example("a train that runs on coal", "a steam locomotive", ("soup", "a steam locomotive")),
    Example("stone", "granite", ("robin", "granite", "soup", "marsh", "a steam locomotive")),
]


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_the_texts_of_a_row_stay_together(kind: ModelKind) -> None:
    model, plain = bound(kind)
    hinge = replace(plain, component=Hinge())
    rows = hinge.tokenize(SEVERAL, training=True)
    batch = hinge.collate(rows)
    assert len(batch["input_ids"]) == len(batch["labels"]) == 10
    with torch.no_grad():
        whole = hinge.loss(model, batch).item()
        for size, texts in ((1, [3, 2, 5]), (2, [5, 5]), (3, [10])):
            parts = list(hinge.microbatches(batch, size))
            assert [len(part["input_ids"]) for part in parts] == [len(part["labels"]) for part in parts] == texts
            assert sum(len(part["answers"]) for part in parts) == 3
            assert sum(hinge.loss(model, part).item() for part in parts) == pytest.approx(whole, rel=1e-5)
        alone = sum(hinge.loss(model, hinge.collate([row])).item() for row in rows)
    assert alone == pytest.approx(whole, rel=1e-4)


def test_a_tensor_that_belongs_neither_to_rows_nor_to_texts_is_an_error() -> None:
    _, plain = bound("decoder")
    batch = replace(plain, component=Hinge()).collate(plain.family.tokenize_completions(SEVERAL, ranked=True))
    with pytest.raises(ValueError, match=r"'twos' of a batch has 4 entries; it must have 3, .*rows, or 10, .*texts"):
        next(plain.microbatches({**batch, "twos": torch.zeros(4)}, 2))
    single = plain.collate(plain.tokenize(SEVERAL, training=True))
    with pytest.raises(ValueError, match=r"'twos' of a batch has 6 entries; it must have 3, as many as rows$"):
        next(plain.microbatches({**single, "twos": torch.zeros(6)}, 2))


def test_another_version_of_the_task_reaches_the_objective() -> None:
    _, plain = bound("decoder")
    doubled, task = replace(plain, component=Doubled()), ColourChoice()
    other = doubled.with_task(task)
    assert other.task is task
    assert doubled.task is plain.task is not task
    assert {row["task"] for row in other.tokenize(EXAMPLES, training=False)} == {"colour_choice"}
    assert (other.component, other.family, other.auto_class) == (doubled.component, plain.family, plain.auto_class)
