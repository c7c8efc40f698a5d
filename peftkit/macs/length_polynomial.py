"""Interpolates MAC counts between the batch lengths that were counted, as exact quadratic polynomials."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations_with_replacement
from math import prod

Lengths = tuple[int, ...]
Values = tuple[int, ...]

PROVEN = 2
"""Counts that the polynomial must predict correctly before it is trusted."""


class LengthPolynomial:
    """Polynomial of degree 2 in a batch's padded lengths, fitted exactly to integer counts.

    Matrix products and attention are at most quadratic in the lengths. The fit is checked rather than assumed: it
    passes through every count, ``PROVEN`` counts beyond those that determine it must lie on it, and it does not
    extrapolate. A cost that grows otherwise (in steps, or beyond some length) shows up as a count off the polynomial.
    """

    def __init__(self) -> None:
        self.regular = True
        """Whether all counts so far lie on one polynomial."""
        self._confirmations = 0
        self._bounds: list[tuple[int, int]] = []
        # Rows in echelon form: the pivot column, the monomials (1 at the pivot), the values.
        self._basis: list[tuple[int, list[Fraction], list[Fraction]]] = []

    def add(self, lengths: Lengths, values: Values) -> None:
        """Add a count.

        Args:
            lengths: The padded lengths of the batch, in tokens.
            values: What was counted for it; always as many values.
        """
        bounds = self._bounds or [(length, length) for length in lengths]
        self._bounds = [
            (min(low, length), max(high, length)) for length, (low, high) in zip(lengths, bounds, strict=True)
        ]
        monomials, residual = self._reduce(lengths, values)
        if any(monomials):  # linearly independent of the earlier counts
            pivot = next(i for i, monomial in enumerate(monomials) if monomial)
            scale = monomials[pivot]
            self._basis.append((pivot, [x / scale for x in monomials], [x / scale for x in residual]))
            self._confirmations = 0
        elif any(residual):
            self.regular = False
        else:
            self._confirmations += 1

    def at(self, lengths: Lengths) -> Values | None:
        """Return the interpolated values at these lengths; None where they have to be counted."""
        if not self.regular or self._confirmations < PROVEN:
            return None
        if not all(low <= length <= high for length, (low, high) in zip(lengths, self._bounds, strict=True)):
            return None
        monomials, residual = self._reduce(lengths, (0,) * len(self._basis[0][2]))
        if any(monomials) or any(value.denominator != 1 for value in residual):
            return None
        return tuple(-int(value) for value in residual)

    def _reduce(self, lengths: Lengths, values: Values) -> tuple[list[Fraction], list[Fraction]]:
        """Eliminate the basis from the monomials of the lengths, and from the values with them."""
        factors = (chosen for degree in range(3) for chosen in combinations_with_replacement(lengths, degree))
        monomials, residual = [Fraction(prod(chosen)) for chosen in factors], [Fraction(value) for value in values]
        for pivot, basis_monomials, basis_values in self._basis:
            if factor := monomials[pivot]:
                monomials = [x - factor * y for x, y in zip(monomials, basis_monomials, strict=True)]
                residual = [x - factor * y for x, y in zip(residual, basis_values, strict=True)]
        return monomials, residual
