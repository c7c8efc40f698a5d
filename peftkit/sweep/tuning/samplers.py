"""Which settings the trials of a study try: points of the search space, as functions of it and of earlier trials.

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
from peftkit.errors import RunError
from peftkit.sweep.sweep_file import MODEL_BASED_FROM
from peftkit.sweep.tuning.trial_design import FOLLOW_UPS

Point = tuple[float, ...]
End = Literal["low", "high"]
TOLERANCE = 1e-9
"""Positions closer than this are equal."""


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


class ModelBasedSearch:
    """Proposes points by a tree-structured Parzen estimator (Bergstra et al., 2011).

    Args:
        space: The search space.
        seed: The seed of the estimator.
        num_start: The number of evenly spaced points.
        higher_is_better: Whether a higher score is better.

    Raises:
        RunError: optuna is not installed.
    """

    def __init__(self, space: Space, *, seed: int, num_start: int, higher_is_better: bool) -> None:
        optuna = self._optuna = import_optuna()
        self.space = space
        self._distributions = {
            axis.key: optuna.distributions.FloatDistribution(0.0, 1.0)
            if isinstance(axis.domain, Range)
            else optuna.distributions.CategoricalDistribution(
                [(i + 0.5) / len(axis.domain) for i in range(len(axis.domain))]
            )
            for axis in space.axes
        }
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=num_start)
        self._study = optuna.create_study(direction="maximize" if higher_is_better else "minimize", sampler=sampler)
        # Ranks after every trial with a score, but counts as a trial.
        self._without_score = optuna.trial.TrialState.PRUNED

    def add(self, point: Point, settings: Mapping[str, Any], score: float | None) -> None:
        """Add a point that was tried before.

        Args:
            point: The point.
            settings: Its settings.
            score: Its score; None if the trial failed.
        """
        positions = [
            position if axis.is_range else axis.position(settings[axis.key])
            for axis, position in zip(self.space.axes, point, strict=True)
        ]
        outcome = {"value": score} if score is not None else {"state": self._without_score}
        params = dict(zip(self._distributions, positions, strict=True))
        self._study.add_trial(
            self._optuna.trial.create_trial(params=params, distributions=self._distributions, **outcome)
        )

    def try_next(self, run: Callable[[Point], float | None]) -> None:
        """Try the next point.

        Args:
            run: Runs a trial at a point, and returns its score; None if it failed.
        """
        proposal = self._study.ask(self._distributions)
        score = run(tuple(proposal.params[axis.key] for axis in self.space.axes))
        if score is None:
            self._study.tell(proposal, state=self._without_score)
        else:
            self._study.tell(proposal, score)


def import_optuna() -> Any:
    """Import optuna.

    Raises:
        RunError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise RunError(
            f"{MODEL_BASED_FROM} or more trials need optuna; install it with: pip install 'peftkit[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
