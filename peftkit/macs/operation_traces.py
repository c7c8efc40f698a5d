"""Interpolates counts between batch shapes operation by operation, from fewer passes than their sums need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any

from peftkit.macs.flop_counter import Operation, count_operation

Point = tuple[int, ...]
PROVEN_IN_ONE, PROVEN_IN_MORE = 1, 2
"""Passes that must be predicted before others are trusted, where one length varies or several; each confirms hundreds
of sizes, not only their sum. A product of two lengths is linear along some curve, which a single pass may lie on."""


class OperationTraces:
    """The operations of passes, whose tensors grow affinely with the lengths of a batch.

    Every size of every tensor that a model computes is usually a length of the batch, a sum of them with something
    constant, or a multiple. So two passes determine the operations of a pass at every length, three those at every
    pair of lengths. This is checked rather than assumed: further passes must consist of exactly the operations, with
    exactly the sizes, that those before them predict, and so must each later pass that is counted to verify them. A
    pass confirms only if all of those before weigh in: a product of two lengths is linear in one of them.
    """

    def __init__(self) -> None:
        self.regular = True
        """Whether all passes so far were predicted where they could be."""
        self.confirmations = 0
        """Passes that were predicted since the last one that could not be."""
        self._points: list[Point] = []
        self._operations: list[Sequence[Operation]] = []

    @property
    def trusted(self) -> bool:
        """Whether the operations at other lengths are known."""
        return self.regular and self.confirmations >= (PROVEN_IN_ONE if len(self._points) <= 2 else PROVEN_IN_MORE)

    def add(self, point: Point, operations: Sequence[Operation]) -> None:
        """Add a pass.

        Args:
            point: The padded lengths of the batch and the number of its rows.
            operations: What it consists of, in order.
        """
        if not self.regular:
            return
        weights = self._weights(point)
        if weights is None:  # affinely independent of the earlier points
            self._points.append(point)
            self._operations.append(operations)
            self.confirmations = 0
            self.regular = len(operations) == len(self._operations[0])
            return
        self.confirmations += all(weights)
        self.regular = False
        with suppress(ValueError):  # of other operations too
            pairs = {*zip(operations, zip(*self._operations, strict=True), strict=True)}
            self.regular = all(each == _combine(others, weights) for each, others in pairs)

    def predictions(self) -> Iterator[tuple[Point, tuple[int, ...]]]:
        """Yield points with their predicted counts, as many as a polynomial of degree 3 in the lengths needs.

        The points form a simplex, and may lie beyond the lengths of the passes: the counts there are values of the
        polynomial that passes through those between, and need not be counts of passes.

        Yields:
            The point; FLOPs forward and backward, and the numbers that element-wise operations process.
        """
        first, *others = self._points
        repeated = Counter(zip(*self._operations, strict=True))
        for corners in combinations_with_replacement([first, *others], 3):
            # The first point, and up to three steps towards other ones.
            point = tuple(sum(each) - 2 * start for *each, start in zip(*corners, first, strict=True))
            weights = [corners.count(each) - (2 if each is first else 0) for each in self._points]
            counts = [0, 0, 0]
            for operations, times in repeated.items():
                counted = count_operation(_combine(operations, weights))
                counts = [count + times * other for count, other in zip(counts, counted, strict=True)]
            yield point, (*counts,)

    def _weights(self, point: Point) -> list[Fraction] | None:
        """Return the weights, of sum 1, with which the points add up to this one; None if they cannot."""
        rows = [[Fraction(value) for value in each] for each in zip(*self._points, point, strict=True)]
        rows.append([Fraction(1)] * (len(self._points) + 1))
        solved = 0
        for column in range(len(self._points)):
            pivot = next(i for i in range(solved, len(rows)) if rows[i][column])  # the points are independent
            rows[solved], rows[pivot] = rows[pivot], rows[solved]
            scale = rows[solved][column]
            rows[solved] = [value / scale for value in rows[solved]]
            for i, row in enumerate(rows):
                if i != solved and (factor := row[column]):
                    rows[i] = [a - factor * b for a, b in zip(row, rows[solved], strict=True)]
            solved += 1
        return None if any(row[-1] for row in rows[solved:]) else [row[-1] for row in rows[:solved]]


def _combine(values: Sequence[Any], weights: Sequence[Fraction | int]) -> Any:
    """Return the weighted sum of operations, shapes or sizes.

    Raises:
        ValueError: They do not have one.
    """
    first = values[0]
    if all(each == first for each in values):
        return first
    if all(type(each) is int for each in values):
        size = sum(weight * value for weight, value in zip(weights, values, strict=True))
        if size.denominator == 1:
            return int(size)
    elif all(isinstance(each, tuple) and len(each) == len(first) for each in values):
        return tuple(_combine(each, weights) for each in zip(*values, strict=True))
    raise ValueError(values)
