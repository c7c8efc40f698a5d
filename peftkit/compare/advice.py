"""Which method to use within a budget, how sure that is, and what would make it surer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from peftkit.compare.curves import at, cost, curve, lower_is_better, of_a_step
from peftkit.compare.examples import TEXTS
from peftkit.compare.gather import Run, Section
from peftkit.compare.seeds import Array, spreads
from peftkit.errors import InputError, did_you_mean, listed

DRAWS = 20_000
FEWEST_SEEDS, FEWEST_EXAMPLES = 2, 30
"""Less than so much is no evidence."""
SHORT = 0.9
"""The share of a budget that a method's runs must have been trained for."""
POWER, LEVEL = 0.8, 0.95
MOST, MOST_EXAMPLES = 1000, 100_000
"""Seeds and test examples beyond which it is said that they will not do."""
UNITS: Mapping[str, tuple[str, float]] = {
    "gmacs": ("gmacs", 1.0),
    "tmacs": ("gmacs", 1e3),
    "pmacs": ("gmacs", 1e6),
    "s": ("seconds", 1.0),
    "seconds": ("seconds", 1.0),
    "min": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
    "samples": ("samples", 1.0),
    "tokens": ("tokens", 1.0),
    "joules": ("joules", 1.0),
    "kwh": ("joules", 3.6e6),
}
BYTES: Mapping[str, float] = {
    "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A method that fits the budget."""

    method: str
    seeds: int
    score: float
    low: float
    high: float
    best: float
    """The probability that it is the best of those that fit."""
    cost: float
    """At which it had reached the score, mean over seeds."""
    peak_memory: float


@dataclass(frozen=True)
class Advice:
    """What to use for one task and model."""

    task: str
    model: str
    metric: str
    axis: str
    budget: float
    candidates: tuple[Candidate, ...]
    """Best first; nothing where the evidence is too thin."""
    too_thin: tuple[str, ...]
    """Why there is no recommendation."""
    left_out: tuple[tuple[str, str], ...]
    """Methods that were not considered, with the reasons."""
    difference: float | None = None
    """Between the first and the second."""
    low: float | None = None
    high: float | None = None
    settled: bool = False
    """Whether the difference is beyond chance."""
    more_seeds: int | None = None
    """Seeds of each of the two that would show it four times in five; None if no number would, or it is settled."""
    more_examples: int | None = None
    """Test examples that it would take, where those there are do not suffice for any number of seeds."""


def parse_budget(text: str) -> tuple[str, float]:
    """``5e5gmacs`` → (``gmacs``, 500000.0).

    Raises:
        InputError: it is no number with a known unit.
    """
    return _quantity(text, UNITS, "5e5gmacs, 2h, 1e6tokens")


def parse_bytes(text: str) -> float:
    """``8GiB`` → bytes.

    Raises:
        InputError: it is no number with a known unit.
    """
    return _quantity(text, {unit: ("bytes", factor) for unit, factor in BYTES.items()}, "8GiB, 500MB")[1]


def advise(
    section: Section, axis: str, budget: float, *, memory: float | None = None, metric: str | None = None
) -> Advice:
    """Ranks the methods of a section by what they had reached within a budget.

    A score varies with the seed by Student's t of the standard deviation between seeds, and with the test examples as
    a share of so many does; of the second no more is known than that, so that methods are taken as independent.

    Args:
        section: the runs.
        axis: what the budget is of.
        budget: how much.
        memory: the most bytes that training may have taken at its peak.
        metric: what counts on test; None for what selects on dev.

    Raises:
        InputError: the runs have not measured the axis or the metric.
    """
    runs = [run for of in section.runs.values() for run in of.values()]
    metric = metric or str(runs[0].summary["selects"])
    sign = -1.0 if lower_is_better(runs[0], metric) else 1.0
    examples = _examples(runs[0], metric)
    left_out: list[tuple[str, str]] = []
    reached: dict[str, list[float]] = {}
    costs: dict[str, float] = {}
    peaks: dict[str, float] = {}
    for label, of in section.runs.items():
        peak = max(cost(run.summary, "peak_memory") for run in of.values())
        curves = [curve(run, axis, metric) for run in of.values()]
        limits = [budget + of_a_step(run, axis) for run in of.values()]
        within = [at(*each, limit) for each, limit in zip(curves, limits, strict=True)]
        trained = min(float(each[0][-1]) for each in curves)
        if memory is not None and peak > memory:
            left_out.append((label, f"its training took {peak / 2**30:.2f} GiB"))
        elif None in within:
            left_out.append((label, "nothing of it was evaluated within the budget"))
        elif trained < SHORT * budget:
            left_out.append((label, f"it was trained for {trained:,.4g} {axis} only"))
        else:
            reached[label] = [float(value) for value in within if value is not None]
            costs[label] = float(np.mean([_when(each, limit) for each, limit in zip(curves, limits, strict=True)]))
            peaks[label] = peak
    few = [label for label, values in reached.items() if len(values) < FEWEST_SEEDS]
    if len(reached) - len(few) >= 2:  # the others can be told about
        for label in few:
            del reached[label]
            left_out.append((label, "one seed tells nothing of how much seeds vary: run others"))
    thin = _too_thin(section, reached, examples)
    common = {"task": section.task, "model": section.model, "metric": metric, "axis": axis, "budget": budget}
    if thin:
        return Advice(**common, candidates=(), too_thin=tuple(thin), left_out=tuple(left_out))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    noise = {label: _of_examples(values, examples) for label, values in reached.items()}
    varying = spreads([np.array(values) for values in reached.values()], len(reached))
    drawn = {
        label: np.mean(values) + spread.draw(DRAWS, rng) + noise[label] * rng.standard_normal(DRAWS)
        for (label, values), spread in zip(reached.items(), varying, strict=True)
    }
    table = np.stack([sign * values for values in drawn.values()])
    shares = np.bincount(table.argmax(0), minlength=len(table)) / DRAWS
    candidates = [
        Candidate(
            method=label,
            seeds=len(values),
            score=float(np.mean(values)),
            low=_interval(drawn[label])[0],
            high=_interval(drawn[label])[1],
            best=float(share),
            cost=costs[label],
            peak_memory=peaks[label],
        )
        for (label, values), share in zip(reached.items(), shares, strict=True)
    ]
    candidates.sort(key=lambda each: (-sign * each.score, each.cost))
    first, second = candidates[0].method, candidates[1].method
    difference = sign * (candidates[0].score - candidates[1].score)
    low, high = _interval(sign * (drawn[first] - drawn[second]))
    settled = low > 0
    seeds, more = None, None
    if not settled:
        both = noise[first], noise[second]
        seeds, more = _settling(reached[first], reached[second], difference, both, examples)
    return Advice(
        **common,  # type: ignore[arg-type]
        candidates=tuple(candidates),
        too_thin=(),
        left_out=tuple(left_out),
        difference=difference,
        low=low,
        high=high,
        settled=settled,
        more_seeds=seeds,
        more_examples=more,
    )


def _too_thin(section: Section, reached: Mapping[str, Sequence[float]], examples: int | None) -> list[str]:
    told = []
    if len(section.runs) < 2:
        told.append(f"there is one method only, {listed([*section.runs])}: run others on the same task and model")
    elif len(reached) < 2:
        told.append("fewer than two methods were run within the budget: raise it, or run more of them for it")
    few = [label for label, values in reached.items() if len(values) < FEWEST_SEEDS]
    if few:
        told.append(f"one seed tells nothing of how much seeds vary: run others of {listed(few[:5])}")
    if examples is not None and examples < FEWEST_EXAMPLES:
        told.append(
            f"{examples} test examples are too few to tell methods apart: evaluate on {FEWEST_EXAMPLES} or more"
        )
    return told


def _settling(
    first: Sequence[float],
    second: Sequence[float],
    difference: float,
    noise: Sequence[float],
    examples: int | None,
) -> tuple[int | None, int | None]:
    """The seeds of each that would show the difference, or else the test examples."""
    if difference <= 0:
        return None, None
    wanted = (difference / (stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER))) ** 2
    fixed = sum(each**2 for each in noise)
    if fixed >= wanted / 2:
        needed = math.ceil((examples or 0) * fixed / (wanted / 2))
        return None, needed if needed <= MOST_EXAMPLES else None
    seeds = (np.var(first, ddof=1) + np.var(second, ddof=1)) / (wanted - fixed)
    return min(MOST, max(len(first), len(second)) + 1 if seeds <= len(first) else math.ceil(seeds)), None


def _examples(run: Run, metric: str) -> int | None:
    """How many examples a share is of; None where the metric is none."""
    rows = run.summary.get("rows", {})
    number = run.recipe.get("evaluate", {}).get("test_examples") or rows.get("test")
    return int(number) if metric in TEXTS and number else None


def _of_examples(values: Sequence[float], examples: int | None) -> float:
    """The standard error of a share of so many examples; that of seeds stands for other metrics."""
    if examples is None:
        return 0.0
    share = min(1.0, max(0.0, float(np.mean(values))))
    return math.sqrt((share * (1 - share) + 0.25 / examples) / examples)


def _when(points: tuple[Array, Array], budget: float) -> float:
    """The cost at which the score within the budget was reached."""
    costs, scores = points
    inside = int(np.flatnonzero(costs <= budget * (1 + 1e-9))[-1])
    return float(costs[np.flatnonzero(scores[: inside + 1] == scores[inside])[0]])


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _quantity(text: str, units: Mapping[str, tuple[str, float]], example: str) -> tuple[str, float]:
    found = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]+)\s*", text)
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    unit = found[2].lower() if found else ""
    if not 0 < number < math.inf or unit not in units:
        near = did_you_mean(unit, units) if unit and unit not in units else ""
        raise InputError(
            f"{text!r} must be a number above zero with a unit{near}: {listed([*units])}; such as {example}"
        )
    name, factor = units[unit]
    return name, number * factor
