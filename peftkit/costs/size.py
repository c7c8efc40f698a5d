"""How much is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from peftkit.components import Meter

if TYPE_CHECKING:
    from torch import nn


class Size(Meter):
    """The parameters that are trained, and what they take to store; both stay as they are for the whole run."""

    name: Literal["size"] = "size"

    _parameters: int = 0
    _bytes: int = 0

    def start(self, model: nn.Module) -> None:
        """Counts what the model trains, of all processes where it is sharded among them."""
        trained = [p for p in model.parameters() if p.requires_grad]
        numbers = [int(getattr(p, "ds_numel", p.numel())) for p in trained]
        self._parameters = sum(numbers)
        self._bytes = sum(number * p.element_size() for number, p in zip(numbers, trained, strict=True))

    def read(self) -> dict[str, float]:
        """``trainable_parameters``, and ``checkpoint_bytes``, what these weights take in a file."""
        return {"trainable_parameters": float(self._parameters), "checkpoint_bytes": float(self._bytes)}
