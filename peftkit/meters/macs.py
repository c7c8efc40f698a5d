"""A meter that adds up the multiply-accumulates of all steps; ``macs.mac_counter`` counts those of one."""

from __future__ import annotations

from typing import Literal

from peftkit.components import Meter, StepStats

GIGA = 1e9


class Macs(Meter):
    """Multiply-accumulates (MACs) of the forward and backward passes of training, summed over all processes.

    Weight gradients of frozen parameters are not counted; recomputation by gradient checkpointing is. Element-wise
    operations and optimizer updates are reported separately, as one operation per output element, or per input element
    for reductions. The counts are the same on every device.
    """

    name: Literal["macs"] = "macs"

    _forward: int = 0
    _backward: int = 0
    _elementwise: int = 0
    _optimizer: int = 0

    def update(self, record: StepStats) -> None:
        """Add the MACs and operations of the step."""
        self._forward += record.forward_macs
        self._backward += record.backward_macs
        self._elementwise += record.elementwise
        self._optimizer += record.optimizer

    def totals(self) -> dict[str, float]:
        """Return billions of operations.

        ``gmacs`` is the sum of ``forward_gmacs`` and ``backward_gmacs``, and ``gflops`` twice that sum.
        ``elementwise_gops`` and ``optimizer_gops`` are not part of it.
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
