"""Gradients of embeddings on a CPU, without a tensor of the size of the whole table for each use of it.

torch fills such a tensor with zeros, adds the few rows that were used, and adds it to the gradient of the table. With
32,000 tokens and tied weights that takes a quarter of a training step of a small T5. Here the rows are kept until the
backward pass has ended, and then added to the gradient of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from peftkit.recipe.tables.train_config import TrainConfig
from peftkit.train.steps.replaced_functions import ReplacedFunctions

Uses = list[tuple[nn.Parameter, Tensor, Tensor]]
"""Tables, the indices that were used, and the gradients of these rows, of shape (uses, width)."""
TABLES = (nn.Parameter, FakeTensor)
"""Types of tables that are looked up this way; fake tensors are for estimates of memory."""
DEVICES = ("cpu", "meta")
"""Their devices; ``meta`` is for estimates, too."""


def applies(train: TrainConfig, device: torch.device, processes: int) -> bool:
    """Whether a run adds the gradients of embeddings itself.

    Args:
        train: The recipe's ``[train]`` table.
        device: The device of the run.
        processes: The number of processes; several average gradients during the backward pass.
    """
    plain = processes == 1 and not train.deepspeed.used and not train.fsdp
    return train.fast_embedding_gradients and plain and device.type == "cpu"


@contextmanager
def added_embedding_gradients() -> Iterator[None]:
    """Add the gradients of embeddings to their tables at the end of this context, which has whole backward passes."""
    with kept_embedding_gradients() as uses:
        yield
    with torch.no_grad():
        for table, indices, rows in uses:
            if table.grad is None:
                table.grad = torch.zeros_like(table)
            table.grad.index_add_(0, indices, rows)


@contextmanager
def kept_embedding_gradients() -> Iterator[Uses]:
    """Keep the gradients of embeddings that are looked up in this context apart from their tables."""
    uses: Uses = []
    token = _uses.set(uses)
    try:
        with _FUNCTIONS.replaced():
            yield uses
    finally:
        _uses.reset(token)


class _Embedding(torch.autograd.Function):
    """Looks up rows of a table, and keeps their gradients."""

    @staticmethod
    def forward(ctx: Any, indices: Tensor, table: nn.Parameter, padding: int | None, uses: Uses) -> Tensor:
        """Return the rows, of the shape of the indices and the width of the table."""
        ctx.save_for_backward(indices)
        ctx.table, ctx.padding, ctx.uses = table, padding, uses
        rows: Tensor = _FUNCTIONS.original("embedding")(indices, table)
        return rows

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None, None]:
        """Keep the gradient, of the shape of the rows."""
        (indices,) = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        if ctx.padding is not None:  # a row of padding has no gradient
            rows = rows * (indices.reshape(-1, 1) != ctx.padding)
        ctx.uses.append((ctx.table, indices.reshape(-1), rows))
        return None, None, None, None


def _is_replaced(table: Tensor) -> bool:
    if torch.compiler.is_compiling() or type(table) not in TABLES or table.device.type not in DEVICES:
        return False
    hooks: Any = table
    has_hooks = bool(hooks._backward_hooks) or bool(hooks._post_accumulate_grad_hooks)
    return torch.is_grad_enabled() and table.requires_grad and table.is_leaf and not has_hooks


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    uses = _uses.get()
    rows: Tensor
    if uses is None or max_norm is not None or scale_grad_by_freq or sparse or not _is_replaced(weight):
        original = _FUNCTIONS.original("embedding")
        rows = original(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    else:
        padding = len(weight) + padding_idx if padding_idx is not None and padding_idx < 0 else padding_idx
        rows = _Embedding.apply(input, weight, padding, uses)  # type: ignore[no-untyped-call]
    return rows


_uses: ContextVar[Uses | None] = ContextVar("embedding_uses", default=None)
_FUNCTIONS = ReplacedFunctions(embedding=_embedding)
