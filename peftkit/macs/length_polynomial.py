"""Interpolates MAC counts between the batch shapes that were counted, as exact polynomials."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations_with_replacement
from math import prod

Lengths = tuple[int, ...]
Values = tuple[int, ...]

PROVEN = 2
"""Counts that the polynomial must predict correctly before it is trusted."""


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
        self._bounds: list[tuple[int, int]] = []
        # Rows in echelon form: the pivot column, the monomials (1 at the pivot), the values.
        self._basis: list[tuple[int, list[Fraction], list[Fraction]]] = []

    def add(self, lengths: Lengths, values: Values, sizes: Lengths = ()) -> None:
        """Add a count.

        Args:
            lengths: The padded lengths of the batch, in tokens.
            values: What was counted for it; always as many values.
            sizes: The number of its rows; or none, if all batches have as many.
        """
        point = (*lengths, *sizes)
        bounds = self._bounds or [(each, each) for each in point]
        self._bounds = [(min(low, each), max(high, each)) for each, (low, high) in zip(point, bounds, strict=True)]
        monomials, residual = self._reduce(lengths, values, sizes)
        if any(monomials):  # linearly independent of the earlier counts
            pivot = next(i for i, monomial in enumerate(monomials) if monomial)
            scale = monomials[pivot]
            self._basis.append((pivot, [x / scale for x in monomials], [x / scale for x in residual]))
            self._confirmations = 0
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
        monomials, residual = self._reduce(lengths, (0,) * len(self._basis[0][2]), sizes)
        if any(monomials) or any(value.denominator != 1 for value in residual):
            return None
        return tuple(-int(value) for value in residual)

    def _reduce(self, lengths: Lengths, values: Values, sizes: Lengths) -> tuple[list[Fraction], list[Fraction]]:
        """Eliminate the basis from the monomials of lengths and sizes, and from the values with them."""
        factors = [prod(each) for degree in range(3) for each in combinations_with_replacement(lengths, degree)]
        monomials = [Fraction(size * factor) for size in (1, *sizes) for factor in factors]
        residual = [Fraction(value) for value in values]
        for pivot, basis_monomials, basis_values in self._basis:
            if factor := monomials[pivot]:
                monomials = [x - factor * y for x, y in zip(monomials, basis_monomials, strict=True)]
                residual = [x - factor * y for x, y in zip(residual, basis_values, strict=True)]
        return monomials, residual
