"""What batches of other lengths compute, without counting each: products grow with lengths as polynomials do."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations_with_replacement
from math import prod

Lengths = tuple[int, ...]
Values = tuple[int, ...]

PROVEN = 2
"""Counts that have to come out as foretold before others are foretold."""


class Interpolation:
    """Whole numbers that belong to lengths, as a polynomial of second degree in these, as attention's work is.

    Nothing is taken for granted: the polynomial goes exactly through all that was counted, counts beyond those that
    it takes to find it have to lie on it, and it speaks of nothing outside of the lengths that were counted. So what
    grows in another way, in steps or otherwise from some length on, is found out by a count that does not lie on it.
    """

    def __init__(self) -> None:
        self.regular = True
        """Whether all counts lie on one polynomial so far."""
        self._proofs = 0
        self._ends: list[tuple[int, int]] = []
        # In echelon form: the place of the first power that is not 0, and so 1; the powers; the values.
        self._basis: list[tuple[int, list[Fraction], list[Fraction]]] = []

    def add(self, lengths: Lengths, values: Values) -> None:
        """Takes in what was counted."""
        self._ends = [
            (min(low, own), max(high, own))
            for own, (low, high) in zip(lengths, self._ends or [(n, n) for n in lengths], strict=True)
        ]
        powers, rest = self._reduced(lengths, values)
        if any(powers):  # of these lengths nothing was known yet
            place = next(i for i, power in enumerate(powers) if power)
            scale = powers[place]
            self._basis.append((place, [x / scale for x in powers], [x / scale for x in rest]))
            self._proofs = 0
        elif any(rest):
            self.regular = False
        else:
            self._proofs += 1

    def at(self, lengths: Lengths) -> Values | None:
        """The values of these lengths, or None where they have to be counted."""
        if not self.regular or self._proofs < PROVEN:
            return None
        if not all(low <= own <= high for own, (low, high) in zip(lengths, self._ends, strict=True)):
            return None
        powers, rest = self._reduced(lengths, (0,) * len(self._basis[0][2]))
        if any(powers) or any(value.denominator != 1 for value in rest):
            return None
        return tuple(-int(value) for value in rest)

    def _reduced(self, lengths: Lengths, values: Values) -> tuple[list[Fraction], list[Fraction]]:
        """What is left of the powers of the lengths, and of the values, without what the basis says of them."""
        chosen = (each for degree in range(3) for each in combinations_with_replacement(lengths, degree))
        powers, rest = [Fraction(prod(each)) for each in chosen], [Fraction(value) for value in values]
        for place, own, of in self._basis:
            if factor := powers[place]:
                powers = [x - factor * y for x, y in zip(powers, own, strict=True)]
                rest = [x - factor * y for x, y in zip(rest, of, strict=True)]
        return powers, rest
