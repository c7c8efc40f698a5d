"""Counts of batch shapes that differ in their lengths: some are counted, those between are interpolated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from peftkit.macs.flop_counter import Operation
from peftkit.macs.length_polynomial import LengthPolynomial, Lengths
from peftkit.macs.operation_traces import OperationTraces
from peftkit.macs.shadow_models import VALUE_ERRORS

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
TRACED_LIMIT = 16
"""How many shapes are interpolated before the next verification, once operations are predicted one by one."""


class StepMacs(NamedTuple):
    """Compute of forward and backward passes."""

    forward_macs: int
    backward_macs: int
    elementwise: int
    """Numbers that element-wise operations and reductions process."""

    def plus(self, other: StepMacs) -> StepMacs:
        """Add another pass."""
        return StepMacs(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass
class Interpolated:
    """A batch shape whose count was interpolated."""

    batch: dict[str, Tensor]
    """The batch on ``meta``: it is kept for the whole run and takes no device memory."""
    macs: StepMacs
    uses: int = 0
    """How many passes the interpolated count was used for."""


@dataclass
class ShapeFamily:
    """Batch shapes that differ in their lengths, and in their number of rows if each row has one text."""

    lengths: LengthPolynomial = field(default_factory=LengthPolynomial)
    traces: OperationTraces = field(default_factory=OperationTraces)
    interpolated: dict[Shapes, Interpolated] = field(default_factory=dict)
    limit: int = 4
    """How many shapes may be interpolated before the next one is counted to verify the polynomial."""
    _growth: int = 2

    def interpolate(self, shapes: Shapes) -> StepMacs:
        """Return the interpolated count of these shapes, and note its use."""
        self.interpolated[shapes].uses += 1
        return self.interpolated[shapes].macs

    def add(self, lengths: Lengths, sizes: Lengths, macs: StepMacs, operations: Sequence[Operation] | None) -> bool:
        """Add a count.

        Args:
            lengths: The padded lengths of the batch.
            sizes: The number of its rows, or none.
            macs: Its count.
            operations: The operations that were counted; None if they are not known, or depend on values.

        Returns:
            Whether this was the count from which the operations at other lengths are known.
        """
        self.lengths.add(lengths, macs, sizes)
        if operations is None:
            return False
        trusted = self.traces.trusted
        self.traces.add((*lengths, *sizes), operations)
        if not self.traces.trusted or trusted:
            return False
        try:
            predictions = [*self.traces.predictions()]
        except (*VALUE_ERRORS, AssertionError):  # a formula needs more than shapes
            self.traces.regular = False
            return False
        for point, (forward, backward, elementwise) in predictions:
            values = (forward // 2, backward // 2, elementwise)
            self.lengths.add(point[: len(lengths)], values, point[len(lengths) :], counted=False)
        self._trust()
        return True

    def _trust(self) -> None:
        self.limit, self._growth = max(self.limit, TRACED_LIMIT), 4

    def dump(self) -> list[int]:
        """Return the counts, and those that operations predict, as numbers to keep."""
        counts = self.lengths.counts
        numbers = [value for each in counts for value in (each.counted, *each.lengths, *each.sizes, *each.values)]
        return [len(counts[0].lengths), len(counts[0].sizes), *map(int, numbers)]

    def load(self, numbers: Sequence[int]) -> None:
        """Take over what was kept of an equal family.

        Args:
            numbers: What ``dump`` returned; empty if there is nothing.
        """
        if not numbers:
            return
        lengths, sizes, *rest = numbers
        width = 1 + lengths + sizes + len(StepMacs._fields)
        for counted, *each in (rest[start : start + width] for start in range(0, len(rest), width)):
            values = tuple(each[lengths + sizes :])
            point = tuple(each[:lengths]), tuple(each[lengths : lengths + sizes])
            self.lengths.add(point[0], values, point[1], counted=bool(counted))
        self._trust()

    def grow_limit(self) -> None:
        """Interpolate more shapes before the next verification, which says more if it is of every operation."""
        self.limit *= self._growth
