"""Interpolates MAC counts between the batch shapes that were counted, as exact polynomials."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations_with_replacement
from math import lcm, prod
from typing import NamedTuple

Lengths = tuple[int, ...]
Values = tuple[int, ...]

PROVEN = 2
"""Counts that the polynomial must predict correctly before it is trusted."""


class Count(NamedTuple):
    """What was counted for a batch."""

    lengths: Lengths
    sizes: Lengths
    values: Values
    counted: bool = True
    """Whether a batch was counted, instead of predicted."""


class Solution(NamedTuple):
    """The polynomial in whole numbers, for fast evaluation."""

    pivots: list[int]
    """The monomials that determine the others where the counts lie."""
    others: list[tuple[int, list[int]]]
    """Each other monomial, and its multiples of the pivots."""
    coefficients: list[list[int]]
    """For each value the multiples of the pivots."""
    denominator: int
    """What all multiples are to be divided by."""


class LengthPolynomial:
    """Polynomial of degree 2 in a batch's padded lengths, and 1 in its rows, fitted exactly to integer counts.

    Matrix products and attention are at most quadratic in the lengths, and what is not done once per pass is
    proportional to the number of rows. The fit is checked rather than assumed: it passes through every count,
    ``PROVEN`` counts beyond those that determine it must lie on it, and it does not extrapolate. A cost that grows
    otherwise (in steps, or beyond some length) shows up as a count off the polynomial.
    """

    def __init__(self) -> None:
        self.regular = True
        """Whether all counts so far lie on one polynomial."""
        self._confirmations = 0
        self.counts: list[Count] = []
        """All counts."""
        self._bounds: list[tuple[int, int]] = []
        self._distinct: dict[int, int] = {}
        """For each length the first one that equals it in all counts, as the mask's equals that of the tokens."""
        # Rows in echelon form: the pivot column, the monomials (1 at the pivot), the values.
        self._basis: list[tuple[int, list[Fraction], list[Fraction]]] = []
        self._solution: Solution | None = None

    def add(self, lengths: Lengths, values: Values, sizes: Lengths = (), *, counted: bool = True) -> None:
        """Add a count.

        Args:
            lengths: The padded lengths of the batch, in tokens.
            values: What was counted for it; always as many values.
            sizes: The number of its rows; or none, if all batches have as many.
            counted: Whether a batch was counted, instead of predicted: interpolation stays between counted ones.
        """
        if counted:
            point = (*lengths, *sizes)
            bounds = self._bounds or [(each, each) for each in point]
            self._bounds = [(min(low, each), max(high, each)) for each, (low, high) in zip(point, bounds, strict=True)]
        self.counts.append(Count(lengths, sizes, values, counted))
        if all(lengths[i] == lengths[first] for i, first in self._distinct.items()) and self._distinct:
            self._fit(self.counts[-1])
            return
        self._distinct = {
            i: next(first for first in range(i + 1) if all(each[0][first] == each[0][i] for each in self.counts))
            for i in range(len(lengths))
        }
        self._basis, self._confirmations = [], 0
        for count in self.counts:
            self._fit(count)

    def _fit(self, count: Count) -> None:
        """Make the polynomial pass through a count."""
        monomials = [Fraction(monomial) for monomial in self._monomials(count.lengths, count.sizes)]
        residual = [Fraction(value) for value in count.values]
        for pivot, basis_monomials, basis_values in self._basis:
            if factor := monomials[pivot]:
                monomials = [x - factor * y for x, y in zip(monomials, basis_monomials, strict=True)]
                residual = [x - factor * y for x, y in zip(residual, basis_values, strict=True)]
        if any(monomials):  # linearly independent of the earlier counts
            pivot = next(i for i, monomial in enumerate(monomials) if monomial)
            scale = monomials[pivot]
            self._basis.append((pivot, [x / scale for x in monomials], [x / scale for x in residual]))
            self._confirmations = 0
            self._solution = None
        elif any(residual):
            self.regular = False
        else:
            self._confirmations += 1

    def at(self, lengths: Lengths, sizes: Lengths = ()) -> Values | None:
        """Return the interpolated values; None where they have to be counted.

        Args:
            lengths: The padded lengths of the batch, in tokens.
            sizes: The number of its rows, as in ``add``.
        """
        if not self.regular or self._confirmations < PROVEN:
            return None
        if not all(low <= each <= high for each, (low, high) in zip((*lengths, *sizes), self._bounds, strict=True)):
            return None
        if any(lengths[i] != lengths[first] for i, first in self._distinct.items()):
            return None
        solution = self._solution = self._solution or self._solve()
        monomials = self._monomials(lengths, sizes)
        pivots = [monomials[pivot] for pivot in solution.pivots]
        for other, multiples in solution.others:
            if monomials[other] * solution.denominator != _dot(multiples, pivots):
                return None
        values = [divmod(_dot(each, pivots), solution.denominator) for each in solution.coefficients]
        return None if any(rest for _, rest in values) else tuple(value for value, _ in values)

    def _monomials(self, lengths: Lengths, sizes: Lengths) -> list[int]:
        distinct = [lengths[i] for i, first in self._distinct.items() if i == first]
        factors = [prod(each) for degree in range(3) for each in combinations_with_replacement(distinct, degree)]
        return [size * factor for size in (1, *sizes) for factor in factors]

    def _solve(self) -> Solution:
        """Reduce the basis completely: each pivot is left in one row."""
        rows: list[tuple[int, list[Fraction]]] = []
        for pivot, monomials, values in reversed(self._basis):
            row = [*monomials, *values]
            for later, other in rows:
                if factor := row[later]:
                    row = [x - factor * y for x, y in zip(row, other, strict=True)]
            rows.append((pivot, row))
        pivots = [pivot for pivot, _ in rows]
        denominator = lcm(*(value.denominator for _, row in rows for value in row))
        columns = [
            [int(value * denominator) for value in column] for column in zip(*(row for _, row in rows), strict=True)
        ]
        number = len(self._basis[0][1])
        others = [(i, columns[i]) for i in range(number) if i not in pivots]
        return Solution(pivots, others, columns[number:], denominator)


def _dot(left: list[int], right: list[int]) -> int:
    return sum(a * b for a, b in zip(left, right, strict=True))
