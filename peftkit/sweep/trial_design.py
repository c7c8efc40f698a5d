"""How many trials a study has, and which settings they try, as functions of the search space and earlier trials.

A point has one position per axis, from 0 at the low end of the declared range to 1 at the high end, on a linear or
logarithmic scale. Positions outside 0 to 1 lie beyond the declared range.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from scipy.stats import qmc

from peftkit.components import Range, SearchSpace
from peftkit.sweep.config import MODEL_BASED_FROM

Point = tuple[float, ...]
End = Literal["low", "high"]
FOLLOW_UPS = 2
"""Trials beyond the best end of a range, or around the best point inside."""
NUM_LEADERS = 2
"""Settings that are repeated with a second seed, and run with the final budget if trials have another one."""
MIN_EVENLY_SPACED = 5
"""The fewest evenly spaced trials of a model-based search, which otherwise has a third of them."""
TOLERANCE = 1e-9
"""Positions closer than this are equal."""


@dataclass(frozen=True)
class TrialDesign:
    """The number of trials of a study by stage, which does not depend on their results."""

    trials: int
    """Trials before the follow-ups, including model-based ones."""
    transfer: int = 0
    """Runs with the final budget, if trials have another one."""
    searches: bool = True
    """Whether there is anything to search; there is not for a method that trains the encoder's head alone."""

    @property
    def evenly_spaced(self) -> int:
        """Evenly spaced trials."""
        return self.trials if self.trials < MODEL_BASED_FROM else max(MIN_EVENLY_SPACED, self.trials // 3)

    @property
    def total(self) -> int:
        """All runs of a study's tuning."""
        return self.trials + FOLLOW_UPS + NUM_LEADERS + self.transfer if self.searches else 0

    def to_json(self) -> dict[str, int]:
        """The design as in ``tuning.json``; methods are tuned equally if these are equal."""
        return {
            "trials": self.trials,
            "model_based": self.trials - self.evenly_spaced,
            "follow_ups": FOLLOW_UPS,
            "repeats": NUM_LEADERS,
            "transfer": self.transfer,
        }


@dataclass(frozen=True)
class Axis:
    """One key of a search space."""

    key: str
    domain: Range | Sequence[Any]
    """A range, or a list of values."""

    @property
    def is_range(self) -> bool:
        """Whether the axis can be extended and bisected; a list cannot."""
        return isinstance(self.domain, Range)

    def value(self, position: float) -> Any:
        """The value at a position: an integer if both ends are, else rounded to four digits; the ends exactly."""
        if not isinstance(self.domain, Range):
            return self.domain[min(len(self.domain) - 1, max(0, math.floor(position * len(self.domain))))]
        ends = {0.0: self.domain.low, 1.0: self.domain.high}
        if position in ends:
            return ends[position]
        low, high = (math.log(end) if self.domain.log else end for end in (self.domain.low, self.domain.high))
        value = low + position * (high - low)
        value = math.exp(value) if self.domain.log else value
        is_integer = isinstance(self.domain.low, int) and isinstance(self.domain.high, int)
        return round(value) if is_integer else float(f"{value:.4g}")

    def position(self, value: Any) -> float:
        """The position of a value, such that ``value(position(x)) == x``."""
        if not isinstance(self.domain, Range):
            return (list(self.domain).index(value) + 0.5) / len(self.domain)
        low, high, at = (math.log(x) if self.domain.log else x for x in (self.domain.low, self.domain.high, value))
        return (at - low) / (high - low)


@dataclass(frozen=True)
class Space:
    """A search space that also decides which of its points are valid recipes."""

    axes: tuple[Axis, ...]
    valid: Callable[[Mapping[str, Any]], bool] = lambda settings: True

    @classmethod
    def from_search_space(
        cls, search: SearchSpace, valid: Callable[[Mapping[str, Any]], bool] = lambda settings: True
    ) -> Space:
        """Build the space from the declaration of a method or sweep.

        Args:
            search: Ranges and lists by key.
            valid: Whether settings make a valid recipe.

        Returns:
            The space.
        """
        return cls(tuple(Axis(key, each) for key, each in search.items()), valid)

    def settings(self, point: Point) -> dict[str, Any]:
        """The values at a point, by key."""
        return {axis.key: axis.value(position) for axis, position in zip(self.axes, point, strict=True)}

    def start(self, number: int, seed: int) -> list[Point]:
        """Return the first points: evenly spaced including both ends, or a scrambled Sobol sequence for several axes.

        Args:
            number: How many.
            seed: The seed of the scrambling (Owen, 1998).

        Returns:
            The points.
        """
        if len(self.axes) == 1:
            return [(i / (number - 1),) for i in range(number)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy warns if the number is not a power of two
            drawn = qmc.Sobol(len(self.axes), scramble=True, seed=seed).random(number)
        return [tuple(map(float, row)) for row in drawn]

    def edges(self, tried: Iterable[Point], best: Point, step: float) -> tuple[int, ...]:
        """Find the axes on which the best point is the outermost one and the range can be extended.

        Args:
            tried: All points so far.
            best: The best one of them.
            step: The distance to the next point beyond.

        Returns:
            By axis, 1 or -1 for the direction of the extension, 0 for none.
        """
        all_points = [*tried]
        edges = []
        for i, axis in enumerate(self.axes):
            positions = [point[i] for point in all_points]
            at_end = {1: best[i] >= max(positions) - TOLERANCE, -1: best[i] <= min(positions) + TOLERANCE}
            directions = [direction for direction, outermost in at_end.items() if outermost and axis.is_range]
            if len(directions) > 1:  # only one position was tried on this axis
                directions = []
            beyond = (
                direction
                for direction in directions
                if self._is_valid(_with_position(best, i, best[i] + direction * step))
            )
            edges.append(next(beyond, 0))
        return tuple(edges)

    def follow_ups(
        self, tried: Sequence[Point], best: Point, step: float
    ) -> tuple[Literal["extension", "bisection", "design"], list[Point]]:
        """Return the two points after the first ones: beyond the best end, or around the best point inside.

        Beyond an end, the spacing of the design continues along every axis on which the best point is the outermost
        one. Inside, the two points halve the distances to both neighbors, on the axis where these are farthest apart.
        If all axes are lists, they are two untried combinations.

        Args:
            tried: All points so far.
            best: The best one of them.
            step: The spacing of the design along one axis.

        Returns:
            The stage of the trials, and the points.
        """
        edges = self.edges(tried, best, step)
        if any(edges):
            first, second = (
                tuple(at + edge * times * step for at, edge in zip(best, edges, strict=True)) for times in (1, 2)
            )
            if self._is_valid(first):
                return "extension", [first, second if self._is_valid(second) else _midpoint(best, first)]
        ranges = [i for i, axis in enumerate(self.axes) if axis.is_range]
        if not ranges:
            return "design", self._untried(tried, best)
        i = max(ranges, key=lambda i: _gap(tried, best, i))
        low, high = _neighbors(tried, best, i)
        middles = [(best[i] + near) / 2 for near in (low, high) if near is not None]
        if len(middles) < FOLLOW_UPS:
            middles += [(best[i] + middle) / 2 for middle in middles or [0.5]]
        return "bisection", [_with_position(best, i, middle) for middle in (middles * FOLLOW_UPS)[:FOLLOW_UPS]]

    def _untried(self, tried: Sequence[Point], best: Point) -> list[Point]:
        tried_settings = [self.settings(point) for point in tried]
        corners = product(*([(i + 0.5) / len(axis.domain) for i in range(len(axis.domain))] for axis in self.axes))  # type: ignore[arg-type]
        untried: list[Point] = []
        for point in corners:
            if len(untried) < FOLLOW_UPS and self.settings(point) not in tried_settings:
                untried.append(point)
        return (untried + [best] * FOLLOW_UPS)[:FOLLOW_UPS]

    def _is_valid(self, point: Point) -> bool:
        try:
            settings = self.settings(point)
        except OverflowError:  # beyond the range of floats
            return False
        return self.valid(settings)


def end_name(direction: int) -> End:
    """The name of a direction."""
    return "high" if direction > 0 else "low"


def _with_position(point: Point, axis: int, position: float) -> Point:
    return (*point[:axis], position, *point[axis + 1 :])


def _midpoint(one: Point, other: Point) -> Point:
    return tuple((a + b) / 2 for a, b in zip(one, other, strict=True))


def _neighbors(tried: Sequence[Point], best: Point, axis: int) -> tuple[float | None, float | None]:
    """The nearest positions below and above on an axis; None if there is none."""
    positions = {point[axis] for point in tried}
    below = [at for at in positions if at < best[axis] - TOLERANCE]
    above = [at for at in positions if at > best[axis] + TOLERANCE]
    return max(below, default=None), min(above, default=None)


def _gap(tried: Sequence[Point], best: Point, axis: int) -> float:
    low, high = _neighbors(tried, best, axis)
    return (best[axis] if high is None else high) - (best[axis] if low is None else low)
