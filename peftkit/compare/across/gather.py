"""Selects the tasks, models and methods of a comparison across tasks, and computes their costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from peftkit.compare.across.aggregate import MIN_COMPARED, AcrossTasks, TaskPosterior, aggregate_tasks, format_title
from peftkit.compare.input.fairness import describe_differences, flatten
from peftkit.compare.input.groups import RunGroup, imported_notes
from peftkit.compare.input.tuning_records import describe_transfer, tuning_record
from peftkit.compare.learning_curves import cost, has_cost, is_number, keep_measured, lower_is_better
from peftkit.compare.method_notes import tuning_notes
from peftkit.compare.per_example_scores import read_group_scores
from peftkit.compare.posterior_inputs import fit_posterior
from peftkit.compare.verdict import BEATS_BASELINES
from peftkit.errors import InputError, comma_separated
from peftkit.recipe.model_names import BUILT_IN_MODELS
from peftkit.run_directory import tuning_edges


def compare_across_tasks(
    groups: Sequence[RunGroup], *, by: str = "gmacs", metric: str | None = None, baseline: str = "full"
) -> AcrossTasks:
    """Compare methods across tasks and models.

    Methods need two seeds or more in every task and model. Pocket models are left out if there are others, and so is
    a task and model in which the best method is not above the constant answer with a probability of 97.5 %.

    Args:
        groups: the runs, one group per task and model.
        by: the axis of costs.
        metric: the test metric; None for the metric that selects checkpoints on dev of each task.
        baseline: the method that costs are relative to, if it was run everywhere.

    Returns:
        The comparison.

    Raises:
        InputError: the runs lack the metric, or fewer than two methods, or fewer than two tasks and models, remain.
    """
    by_title = {
        _title(each): _shorten_labels(each) for each in sorted(groups, key=lambda each: (each.task, each.model))
    }
    pocket = [title for title, group in by_title.items() if Path(group.model).name in BUILT_IN_MODELS]
    only_pocket = len(pocket) == len(by_title)
    left_out = (
        {} if only_pocket else dict.fromkeys(pocket, "results of a pocket model do not carry over to larger models")
    )
    kept = [group for title, group in by_title.items() if title not in left_out]
    _check_enough([*map(_title, kept)], left_out)
    parts, names, unlearned = _select([task_posterior(keep_measured(group, by)[0], metric) for group in kept])
    left_out |= unlearned
    _check_enough([part.title for part in parts], left_out)
    used = [by_title[part.title] for part in parts]
    labels = sorted({label for group in used for label in group.runs} - {*names})
    reasons = {label: _reason(label, used, parts, by) for label in labels}
    if len(names) < MIN_COMPARED:
        head = (
            f"a comparison across tasks needs {MIN_COMPARED} methods or more with two seeds in every task and model, "
            "but there are"
        )
        hint = "methods match by name and, if several share a name, by the options in which they differ"
        lines = (f"{label}: {reason}" for label, reason in reasons.items())
        raise InputError("\n".join([f"{head}: {comma_separated(names)}", *lines, hint]))
    base, costs = _costs(used, names, by, baseline)
    aggregate = aggregate_tasks(parts, names)
    return replace(
        aggregate,
        lines=tuple(replace(row, cost=costs[row.method]) for row in aggregate.lines),
        pocket=only_pocket,
        by=by,
        baseline=base,
        left_out=(*left_out.items(), *reasons.items()),
        remarks=tuple(_remarks(used, parts, names)),
    )


def task_posterior(group: RunGroup, metric: str | None = None) -> TaskPosterior:
    """Compute the posterior of a run group, with the recorded score of the constant answer.

    Args:
        group: the runs.
        metric: the test metric; None for the metric that selects checkpoints on dev.

    Returns:
        The posterior, with the sign that makes higher better.

    Raises:
        InputError: the runs lack the metric.
    """
    runs = [run for seeds in group.runs.values() for run in seeds.values()]
    metric = metric or runs[0].default_metric
    sign = -1.0 if lower_is_better(runs[0], metric) else 1.0
    scored = read_group_scores(group, metric)
    posterior = fit_posterior(group, metric, scored)
    recorded = [
        ((run.summary.get("baselines") or {}).get("constant") or {}).get("test", {}).get(metric)
        for label in posterior.names
        for run in group.runs[label].values()
    ]
    constants = [float(each) for each in recorded if is_number(each)]
    constant, unscaled = None, ""
    if not constants or len(constants) < len(recorded):
        unscaled = f"not all runs record the {metric} of the constant answer"
    elif max(constants) - min(constants) > 1e-9:
        unscaled = f"runs record different values of {metric} for the constant answer"
    else:
        constant = constants[0]
    return TaskPosterior(
        task=group.task,
        model=group.model,
        metric=metric,
        methods=posterior.names,
        draws=sign * posterior.draws,
        constant_score=None if constant is None else sign * constant,
        no_scale_because=unscaled,
        sign=sign,
        split=group.test_split,
        seeds_only_because="" if scored.num_examples else scored.why_unavailable,
    )


def shared_methods(parts: Sequence[TaskPosterior]) -> tuple[str, ...]:
    """The methods that all parts have, sorted by name."""
    return tuple(sorted(set.intersection(*({*part.methods} for part in parts)))) if parts else ()


def _check_enough(titles: Sequence[str], left_out: Mapping[str, str]) -> None:
    if len(titles) < MIN_COMPARED:
        needs = f"a comparison across tasks needs runs of at least {MIN_COMPARED} tasks or models, but there are: "
        lines = (f"left out: {title}: {reason}" for title, reason in left_out.items())
        raise InputError("\n".join([needs + comma_separated(titles), *lines]))


def _select(parts: Sequence[TaskPosterior]) -> tuple[list[TaskPosterior], tuple[str, ...], dict[str, str]]:
    """Select parts and methods.

    Returns:
        The parts in which a method beats the constant answer, the methods that all of these have, and the reasons for
        leaving out the others.
    """
    learned = [part for part in parts if _beats_constant(part, part.methods)]
    names = shared_methods(learned)
    kept = [part for part in learned if _beats_constant(part, names)]
    left_out = {
        part.title: "not learned: no method with two seeds or more is above the constant answer"
        if part not in learned
        else "not learned by the methods that all tasks and models have"
        for part in parts
        if part not in kept
    }
    return kept, shared_methods(kept), left_out


def _beats_constant(part: TaskPosterior, names: Sequence[str]) -> bool:
    """Whether the best method is above the constant answer; assumed if the constant answer's score is unknown."""
    if part.constant_score is None or not names:
        return True
    draws = part.draws[:, [part.methods.index(name) for name in names]]
    return bool((draws[:, draws.mean(0).argmax()] > part.constant_score).mean() >= BEATS_BASELINES)


def _title(group: RunGroup) -> str:
    return format_title(group.task, group.model)


def _shorten_labels(group: RunGroup) -> RunGroup:
    """Use the method's name as its label where it is unique, as it is after matching by tuning."""
    names = {label: str(next(iter(runs.values())).summary["method"]) for label, runs in group.runs.items()}
    number = Counter(names.values())
    runs = {names[label] if number[names[label]] == 1 else label: seeds for label, seeds in group.runs.items()}
    return replace(group, runs=runs)


def _reason(label: str, used: Sequence[RunGroup], parts: Sequence[TaskPosterior], by: str) -> str:
    """Why a method is left out."""
    lacking: dict[str, list[str]] = defaultdict(list)
    for group, part in zip(used, parts, strict=True):
        if label not in group.runs:
            lacking["missing in"].append(part.title)
        elif len(group.runs[label]) == 1:
            lacking["one seed in"].append(part.title)
        elif label not in part.methods:
            lacking[f"{by} was not measured in"].append(part.title)
    return "; ".join(f"{problem} {', '.join(titles)}" for problem, titles in lacking.items())


def _costs(
    used: Sequence[RunGroup], names: Sequence[str], by: str, baseline: str
) -> tuple[str | None, Mapping[str, float | None]]:
    """Compute the mean cost of each method.

    Returns:
        The baseline, if it was measured everywhere, and the cost by method; None if not measured everywhere.
    """
    units = [_mean_cost(group, baseline, by) for group in used]
    relative = all(units)
    by_method: dict[str, float | None] = {}
    for name in names:
        costs = [_mean_cost(group, name, by) for group in used]
        shares = [
            each / (unit if relative and unit else 1.0)
            for each, unit in zip(costs, units, strict=True)
            if each is not None
        ]
        by_method[name] = float(np.mean(shares)) if len(shares) == len(used) else None
    return baseline if relative else None, by_method


def _mean_cost(group: RunGroup, label: str, by: str) -> float | None:
    """The mean cost of a method's runs; None if not all of them measured it."""
    runs = group.runs.get(label, {}).values()
    if not runs or not all(has_cost(run, by) for run in runs):
        return None
    return float(np.mean([cost(run.summary, by) for run in runs]))


def _remarks(used: Sequence[RunGroup], parts: Sequence[TaskPosterior], names: Sequence[str]) -> Iterator[str]:
    """Caveats, with the tasks and models for which they hold unless they hold for all."""
    models: dict[str, list[str]] = defaultdict(list)
    for part in parts:
        models[part.task].append(part.model)
    for task, task_models in models.items():
        if len(task_models) > 1:
            yield f"{task}: {len(task_models)} models share test examples, but are treated as independent"
    for name in names:
        first = [next(iter(group.runs[name].values())).recipe["method"] for group in used]
        if different := describe_differences([flatten(options) for options in first]):
            yield f"{name}: options differ between tasks and models: {'; '.join(different)}"
    by_text: dict[str, list[str]] = defaultdict(list)
    for group, part in zip(used, parts, strict=True):
        seeds_only = [f"intervals: over seeds only, since {part.seeds_only_because}"] if part.seeds_only_because else []
        for text in (*_group_remarks(group, names), *seeds_only):
            by_text[text].append(part.title)
    for text, titles in by_text.items():
        yield text if len(titles) == len(used) else f"{', '.join(titles)}: {text}"


def _group_remarks(group: RunGroup, names: Sequence[str]) -> Iterator[str]:
    tunings = {name: tuning_record(group.runs[name]) for name in names}
    yield from group.remarks
    yield from (f"imported: {note}" for note in imported_notes(group))
    yield from tuning_notes(
        {name: tuning_edges(tuning) for name, tuning in tunings.items()},
        {name: describe_transfer(tuning) for name, tuning in tunings.items()},
    )
    for key, values in group.pooled.items():
        yield from (f"pooled although {key} differs: {text}" for text in values)
