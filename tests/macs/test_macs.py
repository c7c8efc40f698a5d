"""Copies without weights that passes are counted on, and what counting leaves as it was."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftkit.macs.mac_counter import MacCounter, _parameter_slots
from peftkit.macs.optimizer_costs import count_optimizer_step
from peftkit.macs.shadow_models import ShadowModel, shadow_models


class Square(nn.Module):
    """One matrix product, and as many more as a condition on the rows says."""

    def __init__(self, more: Callable[[Tensor], int] = lambda rows: 0) -> None:
        super().__init__()
        self.weight, self.more = nn.Parameter(torch.ones(4, 4)), more
        self.register_buffer("table", torch.ones(3))
        self.register_parameter("missing", None)

    def forward(self, rows: Tensor) -> Any:
        hidden = rows @ self.weight
        for _ in range(self.more(rows)):
            hidden = hidden @ self.weight
        return SimpleNamespace(loss=hidden.sum())


def loss_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


ROWS = {"rows": torch.ones(2, 4)}
PRODUCT = 2 * 4 * 4
"""MACs of one matrix product."""


def test_copies_have_shapes_and_no_values() -> None:
    model = Square().eval()
    model.weight.requires_grad_(False)
    on_meta, known, fake = shadow_models(model)
    assert [each.device for each in (on_meta, known, fake)] == [*map(torch.device, ("meta", "meta", "cpu"))]
    for shadow in (on_meta, known, fake):
        copied: Any = shadow.model
        assert copied is not model
        assert copied.training, "gradient checkpointing needs the training mode"
        assert not model.training
        assert isinstance(copied.weight, nn.Parameter)
        assert (copied.weight.shape, copied.weight.requires_grad) == ((4, 4), False)
        assert copied.table.device.type == shadow.device.type  # type: ignore[union-attr]
        assert not isinstance(copied.table, nn.Parameter)
        assert copied.missing is None
    assert on_meta.model.weight.is_meta
    with torch.device("meta"):
        *_, fake = shadow_models(Square())
    assert fake.device == torch.device("cpu")


def test_parameters_are_found_in_their_modules() -> None:
    model = nn.Sequential(Square(), nn.Linear(4, 2))
    assert [key for _, key in _parameter_slots(model)] == ["weight", "weight", "bias"]
    assert all(slots[key] is not None for slots, key in _parameter_slots(model))


def test_a_parameter_that_is_gone_needs_no_gradient() -> None:
    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        total: Tensor = model(batch["rows"]).sum()
        return total

    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    counter = MacCounter(model, loss)
    assert counter.count(ROWS).backward_macs == 3 * PRODUCT, "two weights, and the inputs of the second layer"
    model[0]._parameters["weight"] = None
    assert counter.count(ROWS).backward_macs == PRODUCT


def test_the_model_itself_takes_the_values_of_a_batch() -> None:
    batch = {"rows": torch.tensor([2.0, 3.0]), "meta": torch.empty(2, 3, device="meta", dtype=torch.long)}
    prepared = ShadowModel(Square()).prepare(batch)
    assert prepared["rows"].tolist() == [2.0, 3.0]
    assert prepared["meta"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_copy_takes_the_values_of_counts_only() -> None:
    batch = {"rows": torch.ones(2, 3), "choices": torch.tensor([2]), "input_tokens": torch.tensor([7])}
    prepared = ShadowModel(Square(), device=torch.device("meta")).prepare(batch)
    assert (prepared["rows"].is_meta, prepared["rows"].shape) == (True, (2, 3))
    assert prepared["choices"].tolist() == [2]
    assert prepared["input_tokens"].tolist() == [7]


def test_batches_that_differ_in_rows_or_lengths_are_counted_apart() -> None:
    counter = MacCounter(Square(), loss_of)
    counts = [counter.count({"rows": torch.ones(*shape, 4)}).forward_macs for shape in ((2, 1), (2, 3), (6, 1), (2, 1))]
    assert counts == [2 * 16, 6 * 16, 6 * 16, 2 * 16]
    assert len(counter._counted) == 3


def test_a_condition_that_changes_no_count_is_guessed() -> None:
    def more(rows: Tensor) -> int:
        return 1 + bool(rows.all()) * 0

    counter = MacCounter(Square(more), loss_of)
    for _ in range(2):
        counter._counted.clear()
        assert counter.count(ROWS).forward_macs == 2 * PRODUCT
        assert counter._guess_is_harmless
        assert counter._shadow is not None


@pytest.mark.parametrize(("value", "products"), [(1.0, 3), (0.0, 1)])
def test_a_condition_that_changes_the_count_needs_values(value: float, products: int) -> None:
    counter = MacCounter(Square(lambda rows: 2 if rows.all() else 0), loss_of)
    batch = {"rows": torch.full((2, 4), value)}
    assert counter.count(batch).forward_macs == products * PRODUCT
    assert counter._shadow is None, "no copy has values"
    assert not counter._guess_is_harmless


def test_a_count_that_fails_on_meta_is_made_on_fake_tensors() -> None:
    def more(rows: Tensor) -> int:
        if rows.is_meta and type(rows) is Tensor:
            raise RuntimeError("it needs a device")
        return 0

    counter = MacCounter(Square(more), loss_of, has_all_weights=False)
    assert counter.count(ROWS).forward_macs == PRODUCT
    assert counter._shadow is not None
    assert counter._shadow.device == torch.device("cpu")


@pytest.mark.parametrize("on_model", [False, True])
def test_counting_leaves_no_gradients_and_no_random_numbers(on_model: bool) -> None:
    def more(rows: Tensor) -> int:
        torch.rand(3)
        return 0

    model = Square(more)
    counter = MacCounter(model, loss_of)
    if on_model:
        counter._shadow = None
    state, disabled = torch.get_rng_state(), logging.getLogger("torch._subclasses.fake_tensor").disabled
    count = counter.count(ROWS)
    assert (count.forward_macs, count.backward_macs) == (PRODUCT, PRODUCT)
    assert all(type(number) is int for number in count)
    assert model.weight.grad is None
    assert on_model or counter._shadow.model.weight.grad is None  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.getLogger("torch._subclasses.fake_tensor").disabled is disabled is False
    assert gc.isenabled()


def test_a_pass_is_counted_without_garbage_collection_and_logs() -> None:
    seen = []

    def more(rows: Tensor) -> int:
        seen.append((gc.isenabled(), logging.getLogger("torch._subclasses.fake_tensor").disabled))
        return 0

    counter = MacCounter(Square(more), loss_of)
    counter.count(ROWS)
    assert seen == [(False, True)]
    gc.disable()
    try:
        MacCounter(Square(more), loss_of).count(ROWS)
        assert not gc.isenabled(), "it was off before"
    finally:
        gc.enable()


def test_time_is_measured_where_something_is_counted() -> None:
    started = time.perf_counter()
    counter = MacCounter(Square(), loss_of)
    before = counter.seconds
    assert 0 < before <= time.perf_counter() - started
    counter.count(ROWS)
    after = counter.seconds
    assert before < after <= time.perf_counter() - started
    counter.count(ROWS)
    assert counter.seconds == after


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}])
def test_optimizers_are_counted_without_their_fused_kernels(options: dict[str, bool]) -> None:
    model = nn.ModuleDict({name: nn.Linear(4, 3) for name in "ab"})
    model["b"].bias.requires_grad_(False)

    def count(**more: bool) -> tuple[int, int, int]:
        return count_optimizer_step(lambda module: torch.optim.AdamW(module.parameters(), **more), model)

    operations, state_bytes, _ = count()
    assert count(**options)[:2] == (operations, state_bytes)
    # Two moments of each trained number, and a step of each of three tensors.
    assert state_bytes == 4 * (2 * (12 + 12 + 3) + 3)
    assert operations > 5 * 27


def test_a_plain_optimizer_step_is_a_product_and_a_sum_per_number() -> None:
    model = nn.Linear(4, 3, bias=False)
    costs = count_optimizer_step(lambda module: torch.optim.SGD(module.parameters()), model)
    assert (costs.elementwise, costs.state_bytes) == (12, 0)


def test_a_copy_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ShadowModel(Square()).device = torch.device("meta")  # type: ignore[misc]
