"""Multiply-accumulates of training."""

from __future__ import annotations

from typing import Literal

from peftkit.components import Meter, StepRecord

GIGA = 1e9


class Macs(Meter):
    """Multiply-accumulates (MACs) of the passes forward and backward, over all processes; evaluation's are not part.

    What no frozen weight's gradient needs is not counted, what gradient checkpointing computes once more is; neither
    are element-wise operations and the optimizer's step, which are given apart: one operation for each number that is
    made, or summed up. The counts are the same on every device.
    """

    name: Literal["macs"] = "macs"

    _forward: int = 0
    _backward: int = 0
    _elementwise: int = 0
    _optimizer: int = 0

    def step(self, record: StepRecord) -> None:
        """Adds the step's."""
        self._forward += record.forward_macs
        self._backward += record.backward_macs
        self._elementwise += record.elementwise
        self._optimizer += record.optimizer

    def read(self) -> dict[str, float]:
        """``gmacs``, billions, of which ``forward_gmacs`` and ``backward_gmacs``; ``gflops``, twice as many.

        Apart from them ``elementwise_gops`` and ``optimizer_gops``, billions of operations that are no products.
        """
        total = self._forward + self._backward
        return {
            "gmacs": total / GIGA,
            "forward_gmacs": self._forward / GIGA,
            "backward_gmacs": self._backward / GIGA,
            "gflops": 2 * total / GIGA,
            "elementwise_gops": self._elementwise / GIGA,
            "optimizer_gops": self._optimizer / GIGA,
        }
