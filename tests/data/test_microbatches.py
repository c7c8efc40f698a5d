"""Microbatches of similar lengths: the rows, losses and gradients of the batch, for less padding."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from peftkit import Example
from peftkit.components import ModelKind
from peftkit.data.microbatches import BatchSplitter, PassCosts, exact_splitter, group_similar_lengths, pass_costs
from peftkit.models import BoundObjective
from peftkit.recipe.model_names import model_path
from tests.tiny_runs import Make, bind_objective, tiny

FREE = PassCosts(0.0, {})
THINGS = ("sky", "sky sky sky sky sky sky sky", "sea", "sea sea sea sea sea sea sea sea sea sea")
COLOURS = ("red", "green")
Shapes = list[tuple[float, ...]]
shapes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=6)


def cost(groups: list[list[int]], shapes: Shapes, overhead: float) -> float:
    return sum(
        overhead + sum(shapes[i][0] for i in group) * sum(max(shapes[i][side] for i in group) for side in (1, 2))
        for group in groups
    )


@given(shapes, st.integers(0, 12))
def test_groups_have_every_row_once_and_never_cost_more_than_the_batch(shapes: Shapes, overhead: int) -> None:
    groups = group_similar_lengths(shapes, overhead)
    assert sorted(i for group in groups for i in group) == [*range(len(shapes))]
    assert cost(groups, shapes, overhead) <= cost([[*range(len(shapes))]], shapes, overhead)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.integers(0, 12), st.integers(0, 2**6 - 1))
def test_no_other_groups_of_sorted_rows_cost_less(lengths: list[int], overhead: int, cuts: int) -> None:
    shapes: Shapes = [(1, length, 0) for length in lengths]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    ends = [0, *(i for i in range(1, len(order)) if cuts >> (i - 1) & 1), len(order)]
    other = [order[start:end] for start, end in pairwise(ends)]
    assert cost(group_similar_lengths(shapes, overhead), shapes, overhead) <= cost(other, shapes, overhead)


def test_rows_of_one_length_stay_together_and_a_costly_pass_splits_nothing() -> None:
    assert group_similar_lengths([(1, 5, 2)] * 4, 0) == [[0, 1, 2, 3]]
    assert group_similar_lengths([(1, 5, 2), (1, 50, 2), (1, 5, 2)], 1) == [[0, 2], [1]]
    assert group_similar_lengths([(1, 5, 2), (1, 50, 2), (1, 5, 2)], 1_000) == [[0, 1, 2]]


def bound(kind: ModelKind, task_kind: str) -> tuple[Any, BoundObjective, list[Any]]:
    """A tiny model without dropout, its objective, and rows of different lengths."""
    model, name = tiny(kind)
    if kind == "encoder":
        model = AutoModelForSequenceClassification.from_config(model.config)
    tokenizer = AutoTokenizer.from_pretrained(model_path(name))
    objective = bind_objective(kind, tokenizer, model.config, task_kind)
    examples = [Example(thing, COLOURS[i % 2], COLOURS) for i, thing in enumerate(THINGS)]
    return model.eval(), objective, [*objective.tokenize(examples, training=True)]


def loss_and_gradients(model: Any, objective: BoundObjective, parts: list[Any]) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    losses = [objective.loss(model, part) for part in parts]
    for loss in losses:
        loss.backward()
    return sum(loss.item() for loss in losses), [p.grad.clone() for p in model.parameters() if p.grad is not None]


CASES: list[tuple[ModelKind, str]] = [
    ("encoder-decoder", "generation"),
    ("decoder", "generation"),
    ("decoder", "classification"),
    ("encoder", "classification"),
    ("encoder", "multiple_choice"),
]


@pytest.mark.parametrize(("kind", "task_kind"), CASES)
def test_parts_have_the_loss_and_the_gradients_of_the_batch(kind: ModelKind, task_kind: str) -> None:
    model, objective, rows = bound(kind, task_kind)
    [whole] = BatchSplitter(objective).collate(rows)
    parts = BatchSplitter(objective, FREE).collate(rows)
    assert len(parts) > 1
    assert sum(part["input_ids"].numel() for part in parts) < whole["input_ids"].numel()
    loss, gradients = loss_and_gradients(model, objective, [whole])
    other_loss, others = loss_and_gradients(model, objective, parts)
    assert other_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(others, gradients, rtol=1e-4, atol=1e-5)
    for name in ("targets", "input_tokens", "tokens"):
        assert sum(getattr(part.counts, name) for part in parts) == getattr(whole.counts, name)


def test_passes_cost_fewer_tokens_of_wider_models_and_more_if_large_embeddings_are_trained() -> None:
    def overhead(width: int, *, trained: bool) -> float:
        layers = torch.nn.Embedding(2**16, 8), torch.nn.Linear(width, width)
        return pass_costs(torch.nn.Sequential(*layers).requires_grad_(trained), all_logits=False).overhead

    assert 0 < overhead(64, trained=False) < overhead(32, trained=False)
    assert overhead(64, trained=False) < overhead(64, trained=True)


class Accelerator:
    """What the splitter asks of an Accelerator."""

    num_processes = 1
    device = torch.device("cpu")


def test_a_loss_that_depends_on_the_batch_is_not_split(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, objective, rows = bound("decoder", "generation")
    recipe, accelerator, stream = make("decoder", "train.split_batches=true"), Accelerator(), iter
    arguments: Any = (model, accelerator, type("Rows", (), {"__iter__": lambda self: stream(rows)})())
    assert exact_splitter(recipe, objective, *arguments).costs is not None
    assert exact_splitter(make("decoder"), objective, *arguments).costs is None
    accelerator.num_processes = 2
    assert exact_splitter(recipe, objective, *arguments).costs is None
    accelerator.num_processes, original = 1, BoundObjective.loss
    monkeypatch.setattr(BoundObjective, "loss", lambda self, m, b: original(self, m, b) / len(b["input_ids"]))
    assert exact_splitter(recipe, objective, *arguments).costs is None
    assert "the losses of two rows do not add up" in caplog.text
