"""The layer of LoRA-XS; it imports torch, which a plugin's own module must not."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

SMALL = 1e-5
"""The standard deviation of the matrix to begin with, as in the paper: the update is next to nothing."""


class XsLinear(nn.Module):
    """A fixed linear layer with a matrix that learns between its largest singular directions.

    ``xs_left`` is out × r, the directions of the output times their singular values; ``xs_right`` is r × in.
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
        self.xs_matrix = nn.Parameter(torch.randn(rank, rank, device=weight.device) * SMALL)

    def _weight(self) -> Tensor:
        """The layer's weight as out × in; a view, which may be written to."""
        weight = cast(Tensor, cast(Any, self.layer).weight)
        return weight.T if isinstance(self.layer, Conv1D) else weight

    @property
    def weight(self) -> Tensor:
        """The layer's own, which some models look at."""
        return cast(Tensor, cast(Any, self.layer).weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's output (… × out) and the update's."""
        result: Tensor = self.layer(inputs)
        update = inputs.to(self.xs_matrix.dtype) @ self.xs_right.T @ self.xs_matrix.T @ self.xs_left.T
        return result + (self.scaling * update).to(result.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The layer alone, with the update in its weight."""
        weight = self._weight()
        weight += (self.scaling * self.xs_left @ self.xs_matrix @ self.xs_right).to(weight.dtype)
        return self.layer
