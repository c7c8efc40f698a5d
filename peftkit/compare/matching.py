"""Comparisons at matched parameters or memory: of each method the variant that is nearest to a target."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from peftkit.compare.curves import cost
from peftkit.compare.gather import Run, Section
from peftkit.compare.quantities import parse_bytes, parse_parameters
from peftkit.errors import InputError, did_you_mean, listed


@dataclass(frozen=True)
class Quantity:
    """Something that methods can be matched by."""

    axis: str
    """What it is called among the costs."""
    parse: Callable[[str], float]
    write: Callable[[float], str]


QUANTITIES: Mapping[str, Quantity] = {
    "parameters": Quantity("trainable_parameters", parse_parameters, lambda value: f"{value:,.6g} parameters"),
    "memory": Quantity("peak_memory", parse_bytes, lambda value: f"{value / 2**30:,.3g} GiB"),
}
FORM = "write it as parameters=1e5±20% or memory=2GiB+-10%"


@dataclass(frozen=True)
class Match:
    """A target, and how far from it a run may be."""

    name: str
    """One of ``QUANTITIES``."""
    target: float
    """Parameters, or bytes."""
    tolerance: float
    """A share of the target."""

    def allows(self, value: float) -> bool:
        """Whether a run with that much is inside."""
        return abs(value - self.target) <= (self.tolerance + 1e-9) * self.target

    def __str__(self) -> str:
        write = QUANTITIES[self.name].write
        return f"{write(self.target)} ± {100 * self.tolerance:g} %"


def parse_match(text: str) -> Match:
    """``parameters=1e5±20%`` → a ``Match``; ``+-`` and ``+/-`` stand for ``±``.

    Raises:
        InputError: it names nothing that methods can be matched by, or its numbers cannot be read.
    """
    name, equals, rest = (part.strip() for part in text.partition("="))
    if not name:
        raise InputError(f"--match {text!r}: it names nothing to match by; {FORM}")
    if name not in QUANTITIES:
        known = f"{did_you_mean(name, QUANTITIES)}; there are {listed([*QUANTITIES])}"
        raise InputError(f"--match {text!r}: cannot match by {name!r}{known}; {FORM}")
    value, *tolerance = re.split(r"±|\+/?-", rest) if equals else [""]
    # An exponent's sign is no tolerance: 1e+5, and 1e+-5 is no number.
    found = (
        re.fullmatch(r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*%\s*", tolerance[0])
        if len(tolerance) == 1
        else None
    )
    if found is None or not 0 <= float(found[1]) <= 100:
        raise InputError(f"--match {text!r}: it needs a target and a tolerance from 0 to 100 %; {FORM}")
    try:
        return Match(name, QUANTITIES[name].parse(value), float(found[1]) / 100)
    except InputError as error:
        raise InputError(f"--match {text!r}: {error}") from error


def matched(section: Section, match: Match) -> Section:
    """The section with one variant of each method, the nearest to the target; the others' remarks say why not.

    A variant's amount is the mean over its seeds.

    Raises:
        InputError: no variant of any method is within the tolerance.
    """
    variants: dict[str, dict[str, float]] = defaultdict(dict)
    for label, of in section.runs.items():
        variants[_name(of)][label] = _amount(of, match)
    chosen: list[str] = []
    left_out: list[str] = []
    for name, amounts in sorted(variants.items()):
        measured = {label: amount for label, amount in amounts.items() if math.isfinite(amount)}
        if not measured:
            left_out.append(f"{name} (not all its runs have measured {QUANTITIES[match.name].axis})")
            continue
        nearest = min(measured, key=lambda label: (abs(measured[label] - match.target), measured[label], label))
        if match.allows(measured[nearest]):
            chosen.append(nearest)
        else:
            options = "" if nearest == name else f" with {nearest.removeprefix(name).strip(' ()')}"
            left_out.append(f"{name} (nearest: {QUANTITIES[match.name].write(measured[nearest])}{options})")
    outside = f"outside of {match}: {'; '.join(left_out)}"
    if not chosen:
        raise InputError(f"no run of {section.task!r} with {section.model!r} is within the match; {outside}")
    remarks = [f"matched: of each method the variant nearest to {match}", *([outside] if left_out else [])]
    runs = {label: of for label, of in section.runs.items() if label in chosen}
    return replace(section, runs=runs, remarks=(*section.remarks, *remarks))


def _name(of: Mapping[int, Run]) -> str:
    return str(next(iter(of.values())).summary["method"])


def _amount(of: Mapping[int, Run], match: Match) -> float:
    """The mean over seeds; NaN where a run has not measured it."""
    try:
        amounts = [cost(run.summary, QUANTITIES[match.name].axis) for run in of.values()]
    except InputError:
        return math.nan
    return sum(amounts) / len(amounts)
