"""Matches methods by trainable parameters or memory: picks the variant of each method nearest to a target."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peftkit.argument_names import format_argument
from peftkit.compare.input.groups import RunGroup, group_runs
from peftkit.compare.input.load_runs import LoadedRun, compare_by_set, find_runs
from peftkit.compare.learning_curves import cost
from peftkit.compare.units import parse_bytes, parse_parameters
from peftkit.errors import InputError, comma_separated, did_you_mean


@dataclass(frozen=True)
class Quantity:
    """A cost that methods can be matched by."""

    axis: str
    """Its name among the costs."""
    parse: Callable[[str], float]
    format: Callable[[float], str]
    """Formats an amount for messages."""


QUANTITIES: Mapping[str, Quantity] = {
    "parameters": Quantity("trainable_parameters", parse_parameters, lambda value: f"{value:,.6g} parameters"),
    "memory": Quantity("peak_memory", parse_bytes, lambda value: f"{value / 2**30:,.3g} GiB"),
}
SYNTAX_HINT = "write it as parameters=1e5±20% or memory=2GiB+-10%"


@dataclass(frozen=True)
class Match:
    """A target and its tolerance."""

    name: str
    """One of ``QUANTITIES``."""
    target: float
    """A number of parameters, or bytes."""
    tolerance: float
    """As a fraction of the target."""

    def allows(self, value: float) -> bool:
        """Whether an amount is within the tolerance."""
        return abs(value - self.target) <= (self.tolerance + 1e-9) * self.target

    def __str__(self) -> str:
        write = QUANTITIES[self.name].format
        return f"{write(self.target)} ± {100 * self.tolerance:g} %"


def load_groups(
    paths: Iterable[Path], pool: Sequence[str] = (), match: str | None = None, evaluation_set: str | None = None
) -> tuple[list[RunGroup], list[str]]:
    """Load the finished runs below folders, grouped by task and model.

    Args:
        paths: Run directories, or folders that contain them.
        pool: Names of ``FAIRNESS_CHECKS`` that may fail.
        match: A size, as for ``parse_match``; None for all variants.
        evaluation_set: The evaluation set whose scores are compared; None for test.

    Returns:
        The groups, at least one, and one message for each run and group that is skipped.

    Raises:
        InputError: There are no runs, they are not comparable, none is of that size, or one lacks the evaluation set.
    """
    wanted = None if match is None else parse_match(match)
    runs, problems = find_runs(paths)
    if evaluation_set is not None:
        runs = [compare_by_set(run, evaluation_set) for run in runs]
    groups: list[RunGroup] = []
    unmatched: list[str] = []
    for group in group_runs(runs, pool):
        try:
            groups.append(match_runs(group, wanted) if wanted else group)
        except InputError as error:
            unmatched.append(str(error))
    if not groups:
        raise InputError("\n".join(unmatched))
    return groups, [*problems, *unmatched]


def parse_match(text: str) -> Match:
    """Parse what methods are matched by, such as ``parameters=1e5±20%``; ``+-`` and ``+/-`` also mean ``±``.

    Raises:
        InputError: The quantity is unknown, or a number is invalid.
    """
    argument = format_argument("match", text)
    name, equals, rest = (part.strip() for part in text.partition("="))
    if not name:
        raise InputError(f"{argument}: the quantity is missing; {SYNTAX_HINT}")
    if name not in QUANTITIES:
        known = f"{did_you_mean(name, QUANTITIES)}; allowed are {comma_separated([*QUANTITIES])}"
        raise InputError(f"{argument}: cannot match by {name!r}{known}; {SYNTAX_HINT}")
    value, *tolerance = re.split(r"±|\+/?-", rest) if equals else [""]
    # The sign of an exponent does not start a tolerance: 1e+5 is a number, and 1e+-5 is an error.
    percentage = (
        re.fullmatch(r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*%\s*", tolerance[0])
        if len(tolerance) == 1
        else None
    )
    if percentage is None or not 0 <= float(percentage[1]) <= 100:
        raise InputError(f"{argument}: a target and a tolerance from 0 to 100 % are required; {SYNTAX_HINT}")
    try:
        return Match(name, QUANTITIES[name].parse(value), float(percentage[1]) / 100)
    except InputError as error:
        raise InputError(f"{argument}: {error}") from error


def match_runs(run_group: RunGroup, match: Match) -> RunGroup:
    """Keep one variant of each method, the nearest to the target. Remarks list the methods that are left out.

    The amount of a variant is the mean over its seeds.

    Args:
        run_group: The runs.
        match: The target.

    Raises:
        InputError: No variant of any method is within the tolerance.
    """
    variants: dict[str, dict[str, float]] = defaultdict(dict)
    for label, runs in run_group.runs.items():
        variants[_method_name(runs)][label] = _mean_amount(runs, match)
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
            left_out.append(f"{name} (nearest: {QUANTITIES[match.name].format(measured[nearest])}{options})")
    outside = f"outside of {match}: {'; '.join(left_out)}"
    if not chosen:
        raise InputError(f"no run of {run_group.task!r} with {run_group.model!r} is within the match; {outside}")
    remarks = [f"matched: the variant of each method nearest to {match}", *([outside] if left_out else [])]
    kept = {label: runs for label, runs in run_group.runs.items() if label in chosen}
    return replace(run_group, runs=kept, remarks=(*run_group.remarks, *remarks))


def _method_name(runs: Mapping[int, LoadedRun]) -> str:
    return str(next(iter(runs.values())).summary["method"])


def _mean_amount(runs: Mapping[int, LoadedRun], match: Match) -> float:
    """The mean over seeds; NaN if a run has not measured it."""
    try:
        amounts = [cost(run.summary, QUANTITIES[match.name].axis) for run in runs.values()]
    except InputError:
        return math.nan
    return sum(amounts) / len(amounts)
