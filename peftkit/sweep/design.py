"""Which settings a study tries: points of a search space, as pure functions of the space and of earlier points.

A point has one position per axis, from 0 at the low end of the declared range to 1 at the high end, on the range's own
scale (logarithmic where it is). Positions outside of 0 to 1 lie beyond the declared range.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from scipy.stats import qmc

from peftkit.components import Between, Search

Point = tuple[float, ...]
End = Literal["low", "high"]
FOLLOW_UPS = 2
"""Trials beyond the winning end, or around the best point inside."""
NEAR = 1e-9
"""Positions closer than this are one."""


@dataclass(frozen=True)
class Axis:
    """One key of a search space."""

    key: str
    of: Between | Sequence[Any]

    @property
    def is_range(self) -> bool:
        """Whether the axis can be extended and bisected; the values of a list are all there are."""
        return isinstance(self.of, Between)

    def value(self, position: float) -> Any:
        """The value at a position: an integer where both ends are, else a number of four digits; the ends exactly."""
        if not isinstance(self.of, Between):
            return self.of[min(len(self.of) - 1, max(0, math.floor(position * len(self.of))))]
        ends = {0.0: self.of.low, 1.0: self.of.high}
        if position in ends:
            return ends[position]
        low, high = (math.log(end) if self.of.log else end for end in (self.of.low, self.of.high))
        value = low + position * (high - low)
        value = math.exp(value) if self.of.log else value
        whole = isinstance(self.of.low, int) and isinstance(self.of.high, int)
        return round(value) if whole else float(f"{value:.4g}")

    def position(self, value: Any) -> float:
        """The position of a value, such that ``value(position(x)) == x``."""
        if not isinstance(self.of, Between):
            return (list(self.of).index(value) + 0.5) / len(self.of)
        low, high, at = (math.log(x) if self.of.log else x for x in (self.of.low, self.of.high, value))
        return (at - low) / (high - low)


@dataclass(frozen=True)
class Space:
    """A search space, and which of its points are valid recipes."""

    axes: tuple[Axis, ...]
    valid: Callable[[Mapping[str, Any]], bool] = lambda settings: True

    @classmethod
    def of(cls, search: Search, valid: Callable[[Mapping[str, Any]], bool] = lambda settings: True) -> Space:
        """The space that a method or a sweep declares."""
        return cls(tuple(Axis(key, each) for key, each in search.items()), valid)

    def settings(self, point: Point) -> dict[str, Any]:
        """The values at a point, by key."""
        return {axis.key: axis.value(position) for axis, position in zip(self.axes, point, strict=True)}

    def start(self, number: int, seed: int) -> list[Point]:
        """The points that are tried first: evenly spaced with both ends, or a scrambled Sobol sequence of several axes.

        Args:
            number: how many.
            seed: scrambles the sequence (Owen, 1998).
        """
        if len(self.axes) == 1:
            return [(i / (number - 1),) for i in range(number)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a number that is no power of two is a little less even, and said so
            drawn = qmc.Sobol(len(self.axes), scramble=True, seed=seed).random(number)
        return [tuple(map(float, row)) for row in drawn]

    def edges(self, tried: Iterable[Point], best: Point, step: float) -> tuple[int, ...]:
        """By axis, 1 or -1 where the best point is the outermost one and the range can be extended there, else 0.

        Args:
            tried: all points so far.
            best: the best one of them.
            step: how far beyond it the next point would be.
        """
        all_points = [*tried]
        found = []
        for i, axis in enumerate(self.axes):
            positions = [point[i] for point in all_points]
            at_end = {1: best[i] >= max(positions) - NEAR, -1: best[i] <= min(positions) + NEAR}
            directions = [way for way, there in at_end.items() if there and axis.is_range]
            if len(directions) > 1:  # only one position was tried on this axis
                directions = []
            beyond = (way for way in directions if self._valid(_moved(best, i, best[i] + way * step)))
            found.append(next(beyond, 0))
        return tuple(found)

    def follow_ups(
        self, tried: Sequence[Point], best: Point, step: float
    ) -> tuple[Literal["extension", "bisection", "design"], list[Point]]:
        """The two points after the first ones: beyond the end that won, or around the best point inside.

        Beyond an end the spacing of the design goes on, along every axis where the best point is the outermost. Inside,
        the two points halve the distances to both neighbours, on the axis where these are farthest apart. A space of
        lists alone has neither: there, two combinations follow that were not tried.

        Args:
            tried: all points so far.
            best: the best one of them.
            step: the spacing of the design along one axis.
        """
        ways = self.edges(tried, best, step)
        if any(ways):
            first, second = (
                tuple(at + way * times * step for at, way in zip(best, ways, strict=True)) for times in (1, 2)
            )
            if self._valid(first):
                return "extension", [first, second if self._valid(second) else _between(best, first)]
        ranges = [i for i, axis in enumerate(self.axes) if axis.is_range]
        if not ranges:
            return "design", self._untried(tried, best)
        i = max(ranges, key=lambda i: _gap(tried, best, i))
        low, high = _neighbours(tried, best, i)
        middles = [(best[i] + near) / 2 for near in (low, high) if near is not None]
        if len(middles) < FOLLOW_UPS:
            middles += [(best[i] + middle) / 2 for middle in middles or [0.5]]
        return "bisection", [_moved(best, i, middle) for middle in (middles * FOLLOW_UPS)[:FOLLOW_UPS]]

    def _untried(self, tried: Sequence[Point], best: Point) -> list[Point]:
        known = [self.settings(point) for point in tried]
        corners = product(*([(i + 0.5) / len(axis.of) for i in range(len(axis.of))] for axis in self.axes))  # type: ignore[arg-type]
        found: list[Point] = []
        for point in corners:
            if len(found) < FOLLOW_UPS and self.settings(point) not in known:
                found.append(point)
        return (found + [best] * FOLLOW_UPS)[:FOLLOW_UPS]

    def _valid(self, point: Point) -> bool:
        try:
            settings = self.settings(point)
        except OverflowError:  # beyond what a float can be
            return False
        return self.valid(settings)


def end_of(way: int) -> End:
    """The name of a direction."""
    return "high" if way > 0 else "low"


def _moved(point: Point, axis: int, position: float) -> Point:
    return (*point[:axis], position, *point[axis + 1 :])


def _between(one: Point, other: Point) -> Point:
    return tuple((a + b) / 2 for a, b in zip(one, other, strict=True))


def _neighbours(tried: Sequence[Point], best: Point, axis: int) -> tuple[float | None, float | None]:
    """The nearest positions below and above on an axis; None where there is none."""
    positions = {point[axis] for point in tried}
    below = [at for at in positions if at < best[axis] - NEAR]
    above = [at for at in positions if at > best[axis] + NEAR]
    return max(below, default=None), min(above, default=None)


def _gap(tried: Sequence[Point], best: Point, axis: int) -> float:
    low, high = _neighbours(tried, best, axis)
    return (best[axis] if high is None else high) - (best[axis] if low is None else low)
