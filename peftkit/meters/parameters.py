"""A meter of trainable parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from peftkit.components import Meter

if TYPE_CHECKING:
    from torch import nn


class ParameterCount(Meter):
    """The number of trainable parameters and the size of their checkpoint, which are constant during a run."""

    name: Literal["size"] = "size"

    _parameters: int = 0
    _bytes: int = 0

    def start(self, model: nn.Module) -> None:
        """Count the trainable parameters, including those sharded to other processes."""
        trained = [p for p in model.parameters() if p.requires_grad]
        sizes = [int(getattr(p, "ds_numel", p.numel())) for p in trained]  # ds_numel: the size before ZeRO sharding
        self._parameters = sum(sizes)
        self._bytes = sum(size * p.element_size() for size, p in zip(sizes, trained, strict=True))

    def totals(self) -> dict[str, float]:
        """Return ``trainable_parameters``, and ``checkpoint_bytes``, their size in a file."""
        return {"trainable_parameters": float(self._parameters), "checkpoint_bytes": float(self._bytes)}
