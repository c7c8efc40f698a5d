"""The data of the HTML report: what its script draws."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import Any

import tomli_w

from peftkit.compare.comparison import Comparison, MethodRow
from peftkit.compare.input.fairness import flatten
from peftkit.compare.input.groups import RunGroup
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.learning_curves import AXES, cost, has_cost, lower_is_better
from peftkit.compare.output.forgetting_figures import common_probes
from peftkit.compare.output.report_predictions import collect_predictions
from peftkit.compare.recorded_baselines import mean_baseline_scores
from peftkit.compare.regret import regret_curves
from peftkit.compare.retention.frontier import compare_retention
from peftkit.components import Method
from peftkit.components.search_space import find_family
from peftkit.errors import InputError
from peftkit.plugins import Registry, load_registry

CURVES = ("gmacs", "gmacs_with_tuning", "seconds", "wall_seconds", "samples", "tokens", "joules")
"""Costs that grow in the course of a run."""
DIGITS = 6
"""Significant digits of numbers in the page's data."""


def collect_data(
    groups: Sequence[RunGroup], comparisons: Sequence[Comparison], terms: Mapping[str, str]
) -> dict[str, Any]:
    """Collect the data of all tasks and models.

    Args:
        groups: The runs, one group per task and model.
        comparisons: The comparison of each group.
        terms: Definitions of the words of the page.
    """
    separations = [separation(comparison) for comparison in comparisons]
    return {
        "format": 2,
        "by": comparisons[0].by,
        "opens": max(range(len(groups)), key=lambda i: (separations[i] or 0.0, -i)),
        "sections": [
            {**_section(group, comparison), "separation": rounded(share)}
            for group, comparison, share in zip(groups, comparisons, separations, strict=True)
        ],
        "environments": {
            _digest(run.environment): run.environment
            for group in groups
            for runs in group.runs.values()
            for run in runs.values()
        },
        "terms": dict(terms),
    }


def separation(comparison: Comparison) -> float | None:
    """The share of pairs of methods whose difference has a 95 % interval without zero; None without several seeds.

    Args:
        comparison: The comparison.
    """
    if not comparison.differences:
        return None
    return sum(each.low > 0 or each.high < 0 for each in comparison.differences) / len(comparison.differences)


def _section(group: RunGroup, comparison: Comparison) -> dict[str, Any]:
    first = next(run for runs in group.runs.values() for run in runs.values())
    labels = [row.method for row in comparison.lines]
    axes = [
        axis for axis in CURVES if all(has_cost(run, axis) for label in labels for run in group.runs[label].values())
    ]
    recipes = {label: _flat_recipe(next(iter(group.runs[label].values()))) for label in labels}
    keys = sorted({key for recipe in recipes.values() for key in recipe})
    differing = [key for key in keys if len({recipe.get(key) for recipe in recipes.values()}) > 1]
    # Options of one method have no counterpart in others.
    differing = [key for key in differing if not key.startswith("method.") or key == "method.name"]
    return {
        "task": group.task,
        "model": group.model,
        "metric": comparison.metric,
        "split": comparison.test_split,
        "selection_metric": str(first.summary["selection_metric"]),
        "higher": bool(first.summary["higher_is_better"]),
        "metric_higher": not lower_is_better(first, comparison.metric),
        "baseline": comparison.baseline,
        "axes": axes,
        "quantities": _quantities(group),
        "baselines": _baselines(group),
        "fronts": comparison.fronts,
        "budgets_differ": any(key.startswith("train.budget.") for key in differing),
        "differing": differing,
        "retention": {name: table for name in common_probes(group) if (table := _retention(group, comparison, name))},
        "tuning": _tuning(group),
        "predictions": collect_predictions(group, comparison.metric, labels),
        "methods": [_method(row, group.runs[row.method], axes, recipes[row.method]) for row in comparison.lines],
    }


def _method(
    row: MethodRow, runs: Mapping[int, LoadedRun], axes: Sequence[str], flat_recipe: Mapping[str, str]
) -> dict[str, Any]:
    first = next(iter(runs.values()))
    totals = {axis: _mean(runs, axis) for axis in AXES}
    totals["checkpoint_bytes"] = row.checkpoint_bytes
    steps = [float(run.evaluations[-1]["step"]) for run in runs.values()]
    for axis, key in (("gmacs", "gmacs_per_step"), ("seconds", "seconds_per_step")):
        total = totals[axis]
        totals[key] = None if total is None or not sum(steps) else total * len(steps) / sum(steps)
    return {
        "label": row.method,
        "score": rounded(row.score),
        "low": rounded(row.low),
        "high": rounded(row.high),
        "totals": {key: rounded(value) for key, value in totals.items()},
        "seconds": {part: rounded(value) for part, value in seconds_by_part(runs).items()},
        "runs": [{"seed": seed, **_curves(run, axes)} for seed, run in sorted(runs.items())],
        "recipe": tomli_w.dumps(first.recipe),
        "keys": dict(flat_recipe),
        "environment": _digest(first.environment),
        "note": " ".join(_remarks(row, first)),
        "at_edge": bool(row.at_edge),
        **_kind(str(first.recipe.get("method", {}).get("name"))),
    }


def _kind(method: str) -> dict[str, Any]:
    """What a method trains, and whether it can be merged; None of a method that is not installed."""
    entry = _registry().all("method").get(method)
    component = entry.component if entry else None
    if component is None or not issubclass(component, Method):
        return {"family": None, "mergeable": None}
    return {"family": find_family(component.search_space) or None, "mergeable": component.mergeable}


@cache
def _registry() -> Registry:
    return load_registry()


def seconds_by_part(runs: Mapping[int, LoadedRun]) -> dict[str, float]:
    """What the seconds of a method's runs were spent on, in means; only parts that all of them recorded.

    Args:
        runs: The runs by seed.
    """
    tables = []
    for run in runs.values():
        costs, summary = run.summary["cost"], run.summary
        training = costs.get("train_seconds")
        wall = summary.get("wall_seconds", costs.get("wall_seconds"))
        probes = summary.get("probe_seconds") or 0.0
        evaluation = summary.get("evaluation_seconds")
        table = {
            "training": training,
            "waiting for data": costs.get("data_wait_seconds"),
            "evaluation": None if evaluation is None else max(0.0, evaluation - probes),
            "probes": probes or None,
            "counting MACs": summary.get("counting_seconds"),
        }
        known = {part: float(value) for part, value in table.items() if value is not None}
        if wall is not None and (rest := float(wall) - sum(known.values())) > 0:
            known["loading and the rest"] = rest
        tables.append(known)
    common = [part for part in tables[0] if all(part in table for table in tables)] if tables else []
    return {part: sum(table[part] for table in tables) / len(tables) for part in common}


def _remarks(row: MethodRow, first: LoadedRun) -> list[str]:
    remarks = [] if row.trainable_parameters is None else [f"{row.trainable_parameters:,.0f} trainable parameters."]
    if row.trials is not None:
        remarks.append(f"Settings: the best on dev of {row.trials} trials, which took {row.tuning_gmacs:,.4g} GMACs.")
    remarks += [f"{name[0].upper()}{name[1:]}: {value:.4f}." for name, value in row.beside.items()]
    remarks += [
        f"{text[0].upper()}{text[1:]}." for keyword, text in row.notes.items() if keyword not in ("imported", "pooled")
    ]
    if first.imported_from:
        remarks.append(f"Imported from {first.imported_from}. {first.summary['imported'].get('note', '')}")
    return remarks


def _curves(run: LoadedRun, axes: Sequence[str]) -> dict[str, Any]:
    limits = run.recipe.get("train", {}).get("budget", {})
    table: dict[str, Any] = {
        "steps": run.evaluations[-1]["step"],
        "constant": run.recipe.get("train", {}).get("schedule") == "constant",
        "limits": {a: limits[a] for a in axes if a in limits},
        "costs": {a: [rounded(cost(row, a)) for row in run.evaluations] for a in axes},
    }
    for split in ("train", "dev", "test"):
        names = dict.fromkeys(key for row in run.evaluations for key in row.get(split) or {})
        table[split] = {name: [rounded((row.get(split) or {}).get(name)) for row in run.evaluations] for name in names}
    return table


def _retention(group: RunGroup, comparison: Comparison, probe: str) -> dict[str, Any] | None:
    """What is learned and forgotten; None if the runs cannot be compared by the probe."""
    try:
        retention = compare_retention(group, probe, by=comparison.by, metric=comparison.metric)
    except InputError:
        return None
    names = ("score", "low", "high", "forgotten", "forgotten_low", "forgotten_high")
    rows = [
        {"label": row.method, "on_front": row.on_front, **{name: rounded(getattr(row, name)) for name in names}}
        for row in retention.rows
    ]
    return {"metric": retention.forgetting.metric, "relative": retention.forgetting.relative, "rows": rows}


def _tuning(group: RunGroup) -> list[dict[str, Any]]:
    """The trials whose scores can be compared."""
    curves = regret_curves(group)
    return [
        {
            "method": trial.method,
            "rate": rounded(trial.learning_rate),
            "score": rounded(trial.score),
            "loss": rounded(trial.loss),
            "chosen": trial.chosen,
        }
        for trial in (curves.tried if curves else ())
        if trial.regret is not None
    ]


def _quantities(group: RunGroup) -> list[str]:
    """The dev and test scores that all runs have at every evaluation."""
    sets = [
        {key for split in ("dev", "test") for key in row.get(split) or {}}
        for runs in group.runs.values()
        for run in runs.values()
        for row in run.evaluations
    ]
    return sorted(set.intersection(*sets))


def _baselines(group: RunGroup) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """The scores of the input-blind baselines, by split and quantity."""
    summaries = [run.summary for runs in group.runs.values() for run in runs.values()]
    by_split: dict[str, dict[str, dict[str, float | int | None]]] = {"dev": {}, "test": {}}
    for split, quantities in by_split.items():
        for name in _quantities(group):
            if scores := mean_baseline_scores(summaries, name, split):
                quantities[name] = {baseline: rounded(value) for baseline, value in scores.items()}
    return by_split


def _mean(runs: Mapping[int, LoadedRun], axis: str) -> float | None:
    try:
        return sum(cost(run.summary, axis) for run in runs.values()) / len(runs)
    except (InputError, KeyError, TypeError):
        return None


def _flat_recipe(run: LoadedRun) -> dict[str, str]:
    tables = {key: value for key, value in run.recipe.items() if key not in ("run", "track", "metric", "format")}
    return {key: str(value) for key, value in flatten(tables).items()}


def _digest(environment: Mapping[str, Any]) -> str:
    return sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:12]


def rounded(value: Any) -> float | int | None:
    """Round a number to ``DIGITS`` significant digits; None if it is not finite.

    Args:
        value: The number, or None.
    """
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
