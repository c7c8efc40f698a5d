"""The runs of several tasks and models as one comparison: which of them count, and what they cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from peftkit.compare.across.aggregate import FEWEST, Across, Part, aggregated, title_of
from peftkit.compare.curves import cost, is_number, lower_is_better, measured, measures
from peftkit.compare.examples import scores_of
from peftkit.compare.fairness import differences, flattened
from peftkit.compare.gather import Section, imported_notes
from peftkit.compare.notes import tuning_notes
from peftkit.compare.posterior import posterior_of
from peftkit.compare.tuned import transfer, tuning_of
from peftkit.compare.verdict import BEATS_BASELINES
from peftkit.errors import InputError, listed
from peftkit.recipe.names import BUILT_IN_MODELS
from peftkit.runs import tuning_edges


def across(
    sections: Sequence[Section], *, by: str = "gmacs", metric: str | None = None, baseline: str = "full"
) -> Across:
    """Puts the methods of several tasks and models together.

    Methods count that have two seeds or more everywhere. Pocket models are left out beside others, and so is a task
    and model where the best method is not above the constant answer with a probability of 97.5 %.

    Args:
        sections: the runs, by task and model.
        by: the axis of costs.
        metric: what counts on test; None for what selects on dev of each.
        baseline: the method that costs are relative to, if it is everywhere.

    Raises:
        InputError: runs have not the metric, or fewer than two methods, or tasks with their models, are left.
    """
    by_title = {_title(each): _relabelled(each) for each in sorted(sections, key=lambda each: (each.task, each.model))}
    pocket = [title for title, section in by_title.items() if Path(section.model).name in BUILT_IN_MODELS]
    only_pocket = len(pocket) == len(by_title)
    left_out = {} if only_pocket else dict.fromkeys(pocket, "a pocket model says nothing about larger ones")
    kept = [section for title, section in by_title.items() if title not in left_out]
    _refuse_few([*map(_title, kept)], left_out)
    parts, names, without = _chosen([part_of(measured(section, by)[0], metric) for section in kept])
    left_out |= without
    _refuse_few([part.title for part in parts], left_out)
    used = [by_title[part.title] for part in parts]
    labels = sorted({label for section in used for label in section.runs} - {*names})
    reasons = {label: _reason(label, used, parts, by) for label in labels}
    if len(names) < FEWEST:
        head = f"--across needs {FEWEST} methods or more with two seeds or more in every task and model; there are"
        why = "methods are matched by name, and by the options in which those of one name differ"
        raise InputError(
            "\n".join([f"{head}: {listed(names)}", *(f"{label}: {reason}" for label, reason in reasons.items()), why])
        )
    base, costs = _costs(used, names, by, baseline)
    found = aggregated(parts, names)
    return replace(
        found,
        lines=tuple(replace(line, cost=costs[line.method]) for line in found.lines),
        pocket=only_pocket,
        by=by,
        baseline=base,
        left_out=(*left_out.items(), *reasons.items()),
        remarks=tuple(_remarks(used, parts, names)),
    )


def part_of(section: Section, metric: str | None = None) -> Part:
    """The posterior of a section, higher being better, with the constant answer that its runs record.

    Args:
        section: the runs.
        metric: what counts on test; None for what selects on dev.

    Raises:
        InputError: runs have not the metric.
    """
    runs = [run for of in section.runs.values() for run in of.values()]
    metric = metric or str(runs[0].summary["selects"])
    sign = -1.0 if lower_is_better(runs[0], metric) else 1.0
    scored = scores_of(section, metric)
    posterior = posterior_of(section, metric, scored)
    recorded = [
        ((run.summary.get("baselines") or {}).get("constant") or {}).get("test", {}).get(metric)
        for label in posterior.names
        for run in section.runs[label].values()
    ]
    constants = [float(each) for each in recorded if is_number(each)]
    constant, unscaled = None, ""
    if not constants or len(constants) < len(recorded):
        unscaled = f"not all its runs record the {metric} of the constant answer"
    elif max(constants) - min(constants) > 1e-9:
        unscaled = f"its runs record different values of {metric} for the constant answer"
    else:
        constant = constants[0]
    return Part(
        task=section.task,
        model=section.model,
        metric=metric,
        names=posterior.names,
        draws=sign * posterior.draws,
        constant=None if constant is None else sign * constant,
        unscaled=unscaled,
        sign=sign,
        seeds_alone="" if scored.examples else scored.why_not,
    )


def shared(parts: Sequence[Part]) -> tuple[str, ...]:
    """The methods that all parts have, by name."""
    return tuple(sorted(set.intersection(*({*part.names} for part in parts)))) if parts else ()


def _refuse_few(titles: Sequence[str], left_out: Mapping[str, str]) -> None:
    if len(titles) < FEWEST:
        head = f"--across needs runs of {FEWEST} or more tasks or models; there are: {listed(titles)}"
        raise InputError("\n".join([head, *(f"left out: {title}: {reason}" for title, reason in left_out.items())]))


def _chosen(parts: Sequence[Part]) -> tuple[list[Part], tuple[str, ...], dict[str, str]]:
    """The parts in which a method beats the constant answer, the methods that all have, and what is left out."""
    better = [part for part in parts if _beats_constant(part, part.names)]
    names = shared(better)
    kept = [part for part in better if _beats_constant(part, names)]
    left_out = {
        part.title: "nothing was learnt: no method with two seeds or more is above the constant answer"
        if part not in better
        else "nothing was learnt by the methods that all tasks and models have"
        for part in parts
        if part not in kept
    }
    return kept, shared(kept), left_out


def _beats_constant(part: Part, names: Sequence[str]) -> bool:
    """Whether the best of the methods is above the constant answer; so it is taken to be where that is not known."""
    if part.constant is None or not names:
        return True
    draws = part.draws[:, [part.names.index(name) for name in names]]
    return bool((draws[:, draws.mean(0).argmax()] > part.constant).mean() >= BEATS_BASELINES)


def _title(section: Section) -> str:
    return title_of(section.task, section.model)


def _relabelled(section: Section) -> Section:
    """The section with a method's name as its label, where it is the only one of that name, as after a match."""
    names = {label: str(next(iter(of.values())).summary["method"]) for label, of in section.runs.items()}
    number = Counter(names.values())
    runs = {names[label] if number[names[label]] == 1 else label: of for label, of in section.runs.items()}
    return replace(section, runs=runs)


def _reason(label: str, used: Sequence[Section], parts: Sequence[Part], by: str) -> str:
    """Why a method does not count: where it lacks what."""
    lacking: dict[str, list[str]] = defaultdict(list)
    for section, part in zip(used, parts, strict=True):
        if label not in section.runs:
            lacking["missing in"].append(part.title)
        elif len(section.runs[label]) == 1:
            lacking["one seed in"].append(part.title)
        elif label not in part.names:
            lacking[f"{by} was not measured in"].append(part.title)
    return "; ".join(f"{what} {', '.join(titles)}" for what, titles in lacking.items())


def _costs(
    used: Sequence[Section], names: Sequence[str], by: str, baseline: str
) -> tuple[str | None, Mapping[str, float | None]]:
    """The baseline if it is everywhere, and each method's mean cost; None where not all its runs have measured it."""

    def of(section: Section, label: str) -> float | None:
        runs = section.runs.get(label, {}).values()
        known = bool(runs) and all(measures(run, by) for run in runs)
        return float(np.mean([cost(run.summary, by) for run in runs])) if known else None

    units = [of(section, baseline) for section in used]
    relative = all(units)
    found: dict[str, float | None] = {}
    for name in names:
        costs = [of(section, name) for section in used]
        shares = [
            each / (unit if relative and unit else 1.0)
            for each, unit in zip(costs, units, strict=True)
            if each is not None
        ]
        found[name] = float(np.mean(shares)) if len(shares) == len(used) else None
    return baseline if relative else None, found


def _remarks(used: Sequence[Section], parts: Sequence[Part], names: Sequence[str]) -> Iterator[str]:
    """What has to be said of the runs: once where it holds everywhere, else with the tasks and models."""
    models: dict[str, list[str]] = defaultdict(list)
    for part in parts:
        models[part.task].append(part.model)
    for task, of in models.items():
        if len(of) > 1:
            yield f"{task}: {len(of)} models have the same test examples, but are taken as independent"
    for name in names:
        first = [next(iter(section.runs[name].values())).recipe["method"] for section in used]
        if different := differences([flattened(options) for options in first]):
            yield f"{name}: not the same everywhere: {'; '.join(different)}"
    where: dict[str, list[str]] = defaultdict(list)
    for section, part in zip(used, parts, strict=True):
        alone = [f"intervals: by seeds alone, since {part.seeds_alone}"] if part.seeds_alone else []
        for text in (*_of_section(section, names), *alone):
            where[text].append(part.title)
    for text, titles in where.items():
        yield text if len(titles) == len(used) else f"{', '.join(titles)}: {text}"


def _of_section(section: Section, names: Sequence[str]) -> Iterator[str]:
    tunings = {name: tuning_of(section.runs[name]) for name in names}
    yield from section.remarks
    yield from (f"imported: {note}" for note in imported_notes(section))
    yield from tuning_notes(
        {name: tuning_edges(tuning) for name, tuning in tunings.items()},
        {name: transfer(tuning) for name, tuning in tunings.items()},
    )
    for what, values in section.pooled.items():
        yield from (f"pooled although {what} differs: {text}" for text in values)
