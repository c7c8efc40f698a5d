"""Reads what runs forget on a probe: the difference of each example to the base model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftkit.argument_names import format_argument
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.learning_curves import is_number
from peftkit.compare.per_example_scores import ExampleScores, read_base_scores, read_example_scores, same_examples
from peftkit.compare.posterior_inputs import NOT_PROPORTIONS
from peftkit.compare.statistics import Posterior, fit
from peftkit.compare.statistics.observations import Array
from peftkit.errors import InputError, comma_separated, did_you_mean
from peftkit.run_directory import RunDirectory

StepOf = Callable[[LoadedRun], int | None]
"""Returns the step of the evaluation to read; None for the selected checkpoint as the summary reports it."""


@dataclass(frozen=True)
class ProbedRun:
    """What one run forgot on a probe."""

    base: float
    """The value of the base model on the same rows."""
    value: float
    """The value of the run."""
    forgotten: float
    """How much worse the run is than the base; below zero if it is better."""
    examples: ExampleScores | None
    """What each example contributes; their mean is ``forgotten``. None if no scores per example are stored."""


@dataclass(frozen=True)
class Forgetting:
    """What the methods of a group forgot on a probe."""

    probe: str
    metric: str
    higher_is_better: bool
    relative: bool
    """Whether it is a share of the base model's value; otherwise it is a difference of proportions, in points."""
    base: float
    """The base model's value, mean over the runs: it is the same for runs on one machine."""
    runs: Mapping[str, Mapping[int, ProbedRun]]
    """By method and seed."""
    posterior: Posterior
    """Of the expected forgetting of each method; lower is better."""
    num_examples: int
    """The number of examples that are resampled; 0 if only seeds vary."""

    def probability_within(self, limit: float) -> dict[str, float]:
        """The probability of each method with several seeds to forget at most so much.

        Args:
            limit: The most that may be forgotten, as a fraction.
        """
        return dict(zip(self.posterior.names, (self.posterior.draws <= limit).mean(0).tolist(), strict=True))

    def format(self, value: float) -> str:
        """Format an amount: ``+1.23 %``, or ``+1.23 points`` for proportions."""
        return f"{100 * value:+.2f} {'%' if self.relative else 'points'}"


def read_forgetting(run_group: RunGroup, probe: str, step_of: StepOf = lambda run: None) -> Forgetting:
    """Read what the runs of a group forgot on a probe, and fit the posterior of their methods.

    Forgetting is paired: the base model and the run are measured on the same examples, and only their differences vary.

    Args:
        run_group: The runs.
        probe: The name of the probe.
        step_of: Returns the step of the evaluation of a run.

    Raises:
        InputError: A run has no such probe, or runs were measured on different rows or by different values.
    """
    members = [run for runs in run_group.runs.values() for run in runs.values()]
    records = [_record(run, probe) for run in members]
    metric, higher = str(records[0]["metric"]), bool(records[0]["higher_is_better"])
    if different := sorted({str(each["metric"]) for each in records} - {metric}):
        raise InputError(f"the runs measure forgetting on {probe!r} by {metric} and by {comma_separated(different)}")
    _check_same_rows(members, probe)
    pairs = {id(run): _values(run, probe, metric, step_of(run)) for run in members}
    relative = is_relative(members, probe)
    runs = {
        label: {seed: _probed(*pairs[id(run)], higher=higher, relative=relative) for seed, run in by_seed.items()}
        for label, by_seed in run_group.runs.items()
    }
    probed = [each for by_seed in runs.values() for each in by_seed.values()]
    examples = [each.examples for each in probed]
    has_examples = all(each is not None for each in examples)
    if has_examples and not all(same_examples(examples[0], each) for each in examples):  # type: ignore[arg-type]
        raise InputError(f"the runs were measured on different examples of the probe {probe!r}")
    arrays = {
        label: {seed: _array(each, has_examples=has_examples) for seed, each in by_seed.items()}
        for label, by_seed in runs.items()
    }
    first = examples[0] if has_examples else None
    groups = first.groups if first is not None and any(first.groups) else None
    posterior = fit(arrays, share=False, higher_is_better=False, groups=groups, tunings={})
    number = len(first.index) if first is not None else 0
    base = float(np.mean([each.base for each in probed]))
    return Forgetting(probe, metric, higher, relative, base, runs, posterior, number)


def forgetting_curve(run: LoadedRun, probe: str, *, relative: bool) -> list[tuple[Mapping[str, Any], float]]:
    """Read what a run had forgotten at each of its evaluations.

    Args:
        run: The run.
        probe: The name of the probe.
        relative: Whether it is a share of the base model's value.

    Returns:
        Each evaluation, and how much worse it is than the base model on the same rows.
    """
    record = _record(run, probe)
    metric, base = record["metric"], float(record["base_on_curve"][record["metric"]])
    rows = [row for row in run.evaluations if is_number((row.get(probe) or {}).get(metric))]
    higher = bool(record["higher_is_better"])
    return [(row, _difference(float(row[probe][metric]), base, higher=higher, relative=relative)) for row in rows]


def is_relative(runs: Iterable[LoadedRun], probe: str) -> bool:
    """Whether forgetting is a share of the base model's value, instead of a difference of proportions.

    Where the base model's value is zero or negative, as that of a correlation may be, a share of it means nothing.

    Args:
        runs: The runs.
        probe: The name of the probe.
    """
    for run in runs:
        record = _record(run, probe)
        metric, rows = record["metric"], (record["base"], run.summary["selected"][probe])
        if min(record["base"][metric], record["base_on_curve"][metric]) <= 0:
            return False
        if not record["higher_is_better"] or metric.startswith(NOT_PROPORTIONS):
            return True
        if not all(0 <= row[metric] <= 1 for row in rows):
            return True
    return False


def parse_limit(text: str) -> float:
    """Parse the most that may be forgotten, such as ``2%`` or ``0.02``.

    Raises:
        InputError: It is not a number, or below zero.
    """
    match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*(%?)\s*", text)
    if match is None:
        argument = format_argument("forget", text)
        raise InputError(f"{argument}: write a share of the base model's value, or points of a score, as 2% or 0.02")
    return float(match[1]) / (100 if match[2] else 1)


def choose_probe(run_group: RunGroup, name: str | None) -> str:
    """Return the name of the probe to compare by.

    Args:
        run_group: The runs.
        name: The name that the caller gives; None for the only probe.

    Raises:
        InputError: None is given, and the runs have none or several.
    """
    if name is not None:
        return name
    run = next(run for runs in run_group.runs.values() for run in runs.values())
    known = [str(each) for each in run.summary.get("probes") or ()]
    if len(known) == 1:
        return str(known[0])
    argument = format_argument("probe", "NAME")
    has = f"the runs have several probes ({comma_separated(known)}); choose one with {argument}"
    raise InputError(has if known else f"{run.path}: has no probe, so that its forgetting was not measured")


def _record(run: LoadedRun, probe: str) -> Mapping[str, Any]:
    """The record of a probe in a run's summary."""
    known = run.summary.get("probes") or {}
    if probe not in known:
        has = f"it has {comma_separated([*known])}" if known else "it has none"
        raise InputError(f"{run.path}: has no probe {probe!r}{did_you_mean(probe, known)}; {has}")
    record: Mapping[str, Any] = known[probe]
    return record


def _check_same_rows(runs: Iterable[LoadedRun], probe: str) -> None:
    digests = {run.summary.get("rows_digests", {}).get(probe): run.path for run in runs}
    if len(digests) > 1:
        one, other = [*digests.values()][:2]
        raise InputError(f"{one} and {other} were measured on different rows of the probe {probe!r}; leave some out")


def _values(
    run: LoadedRun, probe: str, metric: str, step: int | None
) -> tuple[float, float, ExampleScores | None, ExampleScores | None]:
    """The values of the base and of a run on the same rows, and their scores per example where there are any."""
    record, selected = _record(run, probe), run.summary["selected"]
    scores = read_example_scores(run, metric, probe, step)
    base = None if scores is None else read_base_scores(run, metric, probe, scores.index)
    if scores is not None and base is None:
        raise InputError(f"{RunDirectory(run.path).probe(probe).path}: has no results of the base model on its rows")
    if step is None:
        return float(record["base"][metric]), float(selected[probe][metric]), base, scores
    row = next(row for row in run.evaluations if row["step"] == step)
    return float(record["base_on_curve"][metric]), float(row[probe][metric]), base, scores


def _probed(
    base: float,
    value: float,
    base_scores: ExampleScores | None,
    scores: ExampleScores | None,
    *,
    higher: bool,
    relative: bool,
) -> ProbedRun:
    if scores is None or base_scores is None:
        return ProbedRun(base, value, _difference(value, base, higher=higher, relative=relative), None)
    sign = -1.0 if higher else 1.0
    before, after = base_scores.values, scores.values
    differences: Array = sign * (after - before)
    if relative:  # a ratio of means, linearized in the contribution of each example
        ratio = after.mean() / before.mean()
        differences = sign * (ratio - 1 + (after - ratio * before) / before.mean())
    contributions = ExampleScores(scores.index, scores.targets, scores.groups, differences)
    return ProbedRun(base, value, float(differences.mean()), contributions)


def _difference(value: float, base: float, *, higher: bool, relative: bool) -> float:
    """How much worse a value is than the base model's."""
    return (-1.0 if higher else 1.0) * (value - base) / (base if relative else 1.0)


def _array(probed: ProbedRun, *, has_examples: bool) -> Array:
    if has_examples and probed.examples is not None:
        return probed.examples.values
    return np.array([probed.forgotten])
