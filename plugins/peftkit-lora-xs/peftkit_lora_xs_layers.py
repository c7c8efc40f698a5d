"""The layer of LoRA-XS, in a separate module because it imports torch."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

INIT_STD = 1e-5
"""The standard deviation of the initial matrix, as in the paper."""


class XsLinear(nn.Module):
    """A frozen linear layer with a trained matrix between its largest singular directions.

    Args:
        layer: The linear layer.
        rank: The number of singular directions, r.
        scaling: The factor of the update.

    Attributes:
        xs_left: The left singular vectors times the singular values, of shape (out, r).
        xs_right: The right singular vectors, of shape (r, in).
        xs_matrix: The trained matrix, of shape (r, r).
    """

    xs_left: Tensor
    xs_right: Tensor

    def __init__(self, layer: nn.Module, rank: int, scaling: float) -> None:
        super().__init__()
        self.layer, self.scaling = layer, scaling
        weight = self._weight().detach().float()
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        self.register_buffer("xs_left", (left[:, :rank] * values[:rank]).contiguous())
        self.register_buffer("xs_right", right[:rank].contiguous())
        self.xs_matrix = nn.Parameter(torch.randn(rank, rank, device=weight.device) * INIT_STD)

    def _weight(self) -> Tensor:
        """Return a writable view of the weight, of shape (out, in)."""
        weight = cast(Tensor, cast(Any, self.layer).weight)
        return weight.T if isinstance(self.layer, Conv1D) else weight

    @property
    def weight(self) -> Tensor:
        """The weight of the layer, which some models access."""
        return cast(Tensor, cast(Any, self.layer).weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Add the update to the output of the layer, of shape (…, out)."""
        result: Tensor = self.layer(inputs)
        update = inputs.to(self.xs_matrix.dtype) @ self.xs_right.T @ self.xs_matrix.T @ self.xs_left.T
        return result + (self.scaling * update).to(result.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """Merge the update into the weight and return the layer."""
        weight = self._weight()
        weight += (self.scaling * self.xs_left @ self.xs_matrix @ self.xs_right).to(weight.dtype)
        return self.layer
