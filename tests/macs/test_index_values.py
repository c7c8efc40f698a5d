from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftkit.macs.flop_counter import OpCounter
from peftkit.macs.index_values import IndexValues, whole_numbers
from peftkit.macs.mac_counter import MacCounter
from peftkit.macs.shadow_models import shadow_models

WIDTH = 6


class Chosen(nn.Module):
    """Trains entries of a weight that it keeps the positions of."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.values = nn.Parameter(torch.ones(4))
        self.register_buffer("indices", torch.tensor([[0, 1, 2, 9], [3, 3, 0, 1]]))
        self.register_buffer("size", torch.tensor([WIDTH, WIDTH]))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, self.linear(x))


def masked(model: Any, x: Tensor) -> Tensor:
    indices = model.indices.to(model.values.device)
    fits = indices[0] < WIDTH
    delta = torch.zeros(WIDTH, WIDTH, device=x.device)
    delta[indices[0, fits], indices[1, fits]] = model.values[fits]
    return x @ delta


def sized(model: Any, x: Tensor) -> Tensor:
    return x @ torch.ones(model.size.tolist(), device=x.device) * model.values.sum()


def checked(model: Any, x: Tensor) -> Tensor:
    tasks = torch.zeros(len(x), dtype=torch.long, device=x.device)
    if tasks.max().item() >= len(model.values):
        raise ValueError(tasks)
    return x * model.values[tasks][:, None]


def added(model: Any, x: Tensor) -> Tensor:
    weight = torch.zeros(10, WIDTH, device=x.device).clone()
    weight += torch.sparse_coo_tensor(model.indices.to(x.device), model.values, (10, WIDTH))
    return x @ weight.t()


def multiplied(model: Any, x: Tensor) -> Tensor:
    sparse = torch.sparse_coo_tensor(model.indices.to(x.device), model.values, (10, WIDTH)).coalesce()
    assert sparse._nnz() == 4
    return torch.sparse.mm(sparse, x.t()).t() @ (sparse.to_dense() + torch.ones(10, 1, device=x.device))


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    total: Tensor = model(batch["x"]).sum()
    return total


@pytest.mark.parametrize("run", [masked, sized, checked, added, multiplied])
def test_shapes_that_depend_on_whole_numbers_of_a_model_are_counted_without_weights(
    run: Callable[[Any, Tensor], Tensor],
) -> None:
    model, batch = Chosen(run), {"x": torch.randn(5, WIDTH)}
    counter = MacCounter(model, loss)
    counted = counter.count(batch)
    assert counter._shadow is not None
    assert isinstance(counter._shadow.mode, IndexValues)
    with OpCounter() as real:
        total = loss(model, batch)
        real.backward = True
        total.backward()  # type: ignore[no-untyped-call]
    assert counted == (real.forward_flops // 2, real.backward_flops // 2, real.elementwise)


def test_the_copy_keeps_whole_numbers_and_changes_none_of_the_model() -> None:
    model = Chosen(masked)
    _, shadow, *_ = shadow_models(model)
    copy: Any = shadow.model
    assert copy.indices.tolist() == model.indices.tolist()
    copy.indices.add_(1)
    assert model.indices.max() == 9
    assert copy.values.is_meta
    assert copy.linear.weight.is_meta
    assert whole_numbers(model.to("meta")) == {}


def test_new_tensors_have_values_if_they_are_whole_numbers() -> None:
    with IndexValues():
        assert torch.arange(3, dtype=torch.long, device="meta").tolist() == [0, 1, 2]
        assert torch.zeros(3, device="meta").is_meta
        assert torch.empty(3, dtype=torch.long, device="meta").is_meta, "its values are not known"
        assert torch.ones(3, dtype=torch.long, device="meta").to("meta").tolist() == [1, 1, 1]
        assert (torch.zeros(3, device="meta") + torch.ones(3, dtype=torch.long, device="meta")).is_meta
        assert torch.zeros(3, device="meta").to("cpu").is_meta


def test_values_that_are_replaced_by_unknown_ones_are_an_error() -> None:
    with IndexValues(), pytest.raises(RuntimeError, match="unknown"):
        torch.ones(3, dtype=torch.long, device="meta").copy_(torch.empty(3, dtype=torch.long, device="meta"))
