"""Which method is best over several tasks and models: normalised scores, ranks and performance profiles."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from peftkit.compare.curves import cost, is_number, lower_is_better, measured, measures
from peftkit.compare.examples import scores_of
from peftkit.compare.fairness import differences, flattened
from peftkit.compare.gather import Section, imported_notes
from peftkit.compare.notes import tuning_notes
from peftkit.compare.posterior import posterior_of
from peftkit.compare.statistics.engine import LEVEL, TAILS
from peftkit.compare.statistics.observations import Array
from peftkit.compare.tables import Page, Row, rendered
from peftkit.compare.tuned import transfer, tuning_of
from peftkit.compare.verdict import LEARNT, percent, write_probability
from peftkit.errors import InputError, listed
from peftkit.recipe.names import BUILT_IN_MODELS
from peftkit.runs import tuning_edges

FEWEST = 2
"""Tasks with their models, and methods, that it takes at least."""
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(23))
"""Normalised scores at which the performance profile is read."""
WIDE = 0.5
"""The width of the best method's interval, in normalised scores, from which on a section's scale is called narrow."""
TITLE = "Methods across tasks and models"
POCKET = "Pocket models are too small to generalise: this says nothing about larger models"
SCORE, RANK = "normalised score", "rank"
"""What decides which method is the best."""
ENDS = {"": "mean", "_low": "low", "_high": "high"}
"""The columns of an estimate."""


def title_of(task: str, model: str) -> str:
    """What a task with a model is called."""
    return f"{task} with {model}"


@dataclass(frozen=True, eq=False)
class Part:
    """What is known of the methods of one task and model."""

    task: str
    model: str
    metric: str
    names: tuple[str, ...]
    draws: Array
    """Of their expected scores, draws × methods; higher is better."""
    constant: float | None
    """The score of the best constant answer, with the sign of the draws; None where it is not known."""
    unscaled: str = ""
    """Why it is not known."""
    sign: float = 1.0
    """That of the draws: -1 where less of the metric is better."""
    seeds_alone: str = ""
    """Why seeds alone vary; empty where test examples do too."""

    @property
    def title(self) -> str:
        """The task and the model."""
        return title_of(self.task, self.model)


@dataclass(frozen=True)
class Estimate:
    """A posterior mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One method over all tasks and models."""

    method: str
    score: Estimate | None
    """The mean normalised score; None where no scale is known."""
    iqm: Estimate | None
    """The interquartile mean of the normalised scores."""
    rank: Estimate
    """The mean rank; 1 is best."""
    best: float
    """The probability of the highest mean normalised score, or without a scale of the lowest mean rank."""
    improvement: Estimate | None
    """The probability that the leading method scores higher, mean over tasks and models; None of that method itself."""
    profile: tuple[Estimate, ...]
    """For each threshold the share of tasks and models in which the normalised score reaches it; empty without one."""
    cost: float | None = None
    """The mean over tasks and models: relative to the baseline's where there is one; None where it was not measured."""


@dataclass(frozen=True)
class Place:
    """A task and model that count."""

    task: str
    model: str
    metric: str
    constant: float | None
    """The score that is 0 on the normalised scale, in the metric's own unit; None where it is not known."""
    top: float
    """The score that is 1: what the best method that counts is expected to score."""
    unscaled: str
    """Why it has no normalised scores and counts for ranks and improvements alone; empty where it has them."""
    width: float | None
    """Of the best method's 95 % interval, in normalised scores."""

    @property
    def title(self) -> str:
        """The task and the model."""
        return title_of(self.task, self.model)


@dataclass(frozen=True)
class Across:
    """The methods over several tasks and models; the one most probably the best comes first."""

    lines: tuple[Line, ...]
    places: tuple[Place, ...]
    decided_by: str
    """The normalised score, or the rank where fewer than two places have a scale."""
    settled: bool
    """Whether the first is the best with a probability of 95 % or more."""
    difference: Estimate
    """By how much the first is better than the second, in what decides."""
    pocket: bool = False
    """Whether the models are pocket models, from which nothing follows for larger ones."""
    by: str = ""
    baseline: str | None = None
    """The method that costs are relative to; None where they are absolute."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Methods, tasks and models that do not count, with the reasons."""
    remarks: tuple[str, ...] = ()
    """What every conclusion has to say."""
    thresholds: tuple[float, ...] = THRESHOLDS
    """Those of the performance profiles."""

    @property
    def deciding(self) -> tuple[Place, ...]:
        """The tasks and models that the verdict holds for."""
        return tuple(each for each in self.places if self.decided_by == RANK or not each.unscaled)

    @property
    def verdict(self) -> str:
        """Which method is the best overall, in one sentence that names the tasks and models."""
        first, second = self.lines[:2]
        told = f"{first.method} ({write_probability(first.best)})"
        if not self.settled:
            gap = self.difference
            told = (
                f"not settled: {first.method} ({percent(first.best)}) or {second.method} ({percent(second.best)}), a "
                f"difference of {gap.mean:.3f} ({gap.low:.3f} – {gap.high:.3f})"
            )
        what = f"mean {self.decided_by}"
        where = f"by {what} on {places_of(self.deciding)}"
        if self.pocket:
            return f"On pocket models: {told}, {where}. {POCKET}"
        return f"Overall: {told}, {where}"


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


def normalised(draws: Array, constant: float) -> Array:
    """Scores on the scale on which the constant answer is 0 and the expected score of the best method 1.

    Args:
        draws: draws × methods; higher is better.
        constant: the score of the constant answer.
    """
    found: Array = (draws - constant) / (draws.mean(0).max() - constant)
    return found


def interquartile_mean(values: Array) -> Array:
    """The mean of the middle half along the first axis; of few values, the outer ones count by the part inside."""
    number = len(values)
    edges = np.arange(number + 1) / number
    weights = np.diff(np.clip(edges, 0.25, 0.75)) / 0.5
    found: Array = np.tensordot(weights, np.sort(values, axis=0), axes=1)
    return found


def aggregated(parts: Sequence[Part], names: Sequence[str]) -> Across:
    """What joint draws of parts say of methods; neither the order of the parts nor that of the methods matters.

    Args:
        parts: two or more that have all methods, and in which one of them is above the constant answer.
        names: the methods that count, two or more.
    """
    parts = sorted(parts, key=lambda part: (part.task, part.model))
    names = sorted(names)
    number = min(len(part.draws) for part in parts)
    drawn = [_independent(part, names)[:number] for part in parts]
    scaled = [
        None if part.constant is None else normalised(each, part.constant)
        for part, each in zip(parts, drawn, strict=True)
    ]
    known = [each for each in scaled if each is not None]
    scores = np.stack(known) if len(known) >= FEWEST else None
    ranks = np.mean([stats.rankdata(-each, axis=1) for each in drawn], axis=0)
    quality = -ranks if scores is None else scores.mean(0)
    top = quality >= quality.max(1, keepdims=True) - 1e-12
    best = (top / top.sum(1, keepdims=True)).mean(0)  # equal ones have equal parts of a draw
    order = sorted(range(len(names)), key=lambda i: (-best[i], -quality[:, i].mean(), names[i]))
    first, second = order[:2]
    ahead = np.mean([(np.sign(each[:, [first]] - each) + 1) / 2 for each in drawn], axis=0)
    lines = [
        Line(
            method=names[i],
            score=None if scores is None else _estimate(quality[:, i]),
            iqm=None if scores is None else _estimate(interquartile_mean(scores[:, :, i])),
            rank=_estimate(ranks[:, i]),
            best=float(best[i]),
            improvement=None if i == first else _estimate(ahead[:, i]),
            profile=()
            if scores is None
            else tuple(_estimate((scores[:, :, i] >= threshold).mean(0)) for threshold in THRESHOLDS),
        )
        for i in order
    ]
    return Across(
        lines=tuple(lines),
        places=tuple(
            _place(part, each, None if scores is None else own)
            for part, each, own in zip(parts, drawn, scaled, strict=True)
        ),
        decided_by=RANK if scores is None else SCORE,
        settled=bool(best[first] >= LEVEL),
        difference=_estimate(quality[:, first] - quality[:, second]),
    )


def written(found: Across, form: str) -> bytes:
    """The methods over all tasks and models in one of the forms of a comparison."""
    document = {"verdict": found.verdict, **asdict(found)}
    page = Page(TITLE, rows_of(found), notes(found), document, _flat(found), (f"{found.verdict}.",), wide=False)
    return rendered([page], form, "across")


def rows_of(found: Across) -> list[Row]:
    """The table with its heads; columns that nothing would stand in are left out."""
    heads = ("method", "score", "95 % interval", "iqm", "rank", "P(best)", "cost")
    rows = [
        (
            line.method,
            "" if line.score is None else f"{line.score.mean:.3f}",
            "" if line.score is None else f"{line.score.low:.3f} – {line.score.high:.3f}",
            "" if line.iqm is None else f"{line.iqm.mean:.3f}",
            f"{line.rank.mean:.1f} ({line.rank.low:.1f} – {line.rank.high:.1f})",
            percent(line.best),
            "" if line.cost is None else f"{line.cost:.2f}" if found.baseline else f"{line.cost:,.4g}",
        )
        for line in found.lines
    ]
    if found.decided_by == SCORE:
        rows.append(("constant", "0.000", "", "", "", "", ""))  # by the definition of the scale
    kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    return [tuple(row[i] for i in kept) for row in (heads, *rows)]


def notes(found: Across) -> list[str]:
    """The notes beside the table."""
    metrics: dict[str, list[Place]] = defaultdict(list)
    for place in found.places:
        metrics[place.metric].append(place)
    told = [f"{metric} on test, of what dev selects: {places_of(places)}" for metric, places in metrics.items()]
    if found.decided_by == SCORE:
        told += [
            "score: the mean over these with equal weights, where 0 is the best constant answer and 1 the expected "
            "score of the best method",
            "iqm: the interquartile mean; rank: the mean rank, 1 is best",
            "P(best): the probability of the highest score",
        ]
    else:
        told.append("rank: the mean rank, 1 is best; P(best): the probability of the lowest mean rank")
    told.append(f"intervals: {LEVEL:.0%}, for these tasks and models; they do not cover other ones")
    told += [
        f"probability of improvement: {found.lines[0].method} over {line.method}: {line.improvement.mean:.2f} "
        f"({line.improvement.low:.2f} – {line.improvement.high:.2f})"
        for line in found.lines
        if line.improvement
    ]
    told += [f"in ranks only: {place.title}: {place.unscaled}" for place in found.places if place.unscaled]
    told += [
        f"narrow scale: {place.title}: from {place.constant:.4f} to {place.top:.4f}, so its scores vary most; ranks do "
        "not depend on that"
        for place in found.places
        if place.width is not None and place.width > WIDE
    ]
    if any(line.cost is not None for line in found.lines):
        relative = f" relative to {found.baseline}" if found.baseline else ""
        told.append(f"cost: {found.by} of a run{relative}, the mean over these")
    return [*told, *(f"left out: {name}: {reason}" for name, reason in found.left_out), *found.remarks]


def _refuse_few(titles: Sequence[str], left_out: Mapping[str, str]) -> None:
    if len(titles) < FEWEST:
        head = f"--across needs runs of {FEWEST} or more tasks or models; there are: {listed(titles)}"
        raise InputError("\n".join([head, *(f"left out: {title}: {reason}" for title, reason in left_out.items())]))


def _chosen(parts: Sequence[Part]) -> tuple[list[Part], tuple[str, ...], dict[str, str]]:
    """The parts in which something was learnt, the methods that all of them have, and why other parts are left out."""
    learnt = [part for part in parts if _learnt(part, part.names)]
    names = shared(learnt)
    kept = [part for part in learnt if _learnt(part, names)]
    left_out = {
        part.title: "nothing was learnt: no method with two seeds or more is above the constant answer"
        if part not in learnt
        else "nothing was learnt by the methods that all tasks and models have"
        for part in parts
        if part not in kept
    }
    return kept, shared(kept), left_out


def _learnt(part: Part, names: Sequence[str]) -> bool:
    """Whether the best of the methods is above the constant answer; so it is taken to be where that is not known."""
    if part.constant is None or not names:
        return True
    draws = part.draws[:, [part.names.index(name) for name in names]]
    return bool((draws[:, draws.mean(0).argmax()] > part.constant).mean() >= LEARNT)


def _independent(part: Part, names: Sequence[str]) -> Array:
    """The draws of the methods in an order of the part's own: fits with one seed would move parts together."""
    seed = int.from_bytes(sha256(f"{part.task}\0{part.model}".encode()).digest()[:8])
    order = np.random.default_rng(seed).permutation(len(part.draws))
    found: Array = part.draws[order][:, [part.names.index(name) for name in names]]
    return found


def _place(part: Part, draws: Array, scores: Array | None) -> Place:
    best = draws.mean(0).argmax()
    width = None if scores is None else float(np.ptp(np.quantile(scores[:, best], TAILS)))
    return Place(
        task=part.task,
        model=part.model,
        metric=part.metric,
        constant=None if part.constant is None else part.sign * part.constant,
        top=part.sign * float(draws[:, best].mean()),
        unscaled="" if scores is not None else part.unscaled or "no other has a constant answer",
        width=width,
    )


def _estimate(values: Array) -> Estimate:
    low, high = np.quantile(values, TAILS)
    return Estimate(float(values.mean()), float(low), float(high))


def places_of(places: Sequence[Place]) -> str:
    """Tasks and models, such as ``3 tasks with t5-base: cola, rte, sst2``."""
    by_model: dict[str, list[str]] = defaultdict(list)
    for place in places:
        by_model[place.model].append(place.task)
    return " and ".join(
        f"{len(tasks)} {'task' if len(tasks) == 1 else 'tasks'} with {model}: {', '.join(tasks)}"
        for model, tasks in by_model.items()
    )


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


def _flat(found: Across) -> list[dict[str, Any]]:
    """A row for each method."""
    told = {
        "by": found.by,
        "baseline": found.baseline,
        "decided_by": found.decided_by,
        "settled": found.settled,
        "verdict": found.verdict,
        "holds_for": "; ".join(place.title for place in found.deciding),
    }
    rows = []
    for line in found.lines:
        row: dict[str, Any] = {"method": line.method, "best": line.best}
        for name in ("score", "iqm", "rank", "improvement"):
            estimate: Estimate | None = getattr(line, name)
            row |= {f"{name}{end}": getattr(estimate, of, None) for end, of in ENDS.items()}
        rows.append(row | {"cost": line.cost} | told)
    return rows
