"""What to use, and how sure that is: the one verdict of ``compare``, ``advise``, sweeps and the report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from peftkit.compare.evidence import Evidence
from peftkit.compare.gather import Run
from peftkit.compare.notes import LEAKS
from peftkit.compare.quantities import write_cost
from peftkit.compare.settling import SURE, Plan, plan
from peftkit.compare.statistics.observations import Array
from peftkit.compare.tuned import AT_EDGE, tuning_of
from peftkit.recipe.names import BUILT_IN_MODELS
from peftkit.runs import tuning_edges

FEWEST_EXAMPLES = 30
"""Test examples below which methods are not compared."""
BEATS_BASELINES = 0.975
"""The probability from which on a method beats the baselines: these lie below its 95 % interval. Of many methods that
are no better, one reaches 95 % by chance more often than in 5 of 100 comparisons."""
FALLING = 0.99
"""The share of its earlier value to which a loss on dev must have fallen to count as still falling."""
NAMED = 6
"""Methods that a sentence names; of more it says how many."""


@dataclass(frozen=True)
class Rival:
    """Another method beside the recommended one."""

    method: str
    difference: float
    """By how much its score is better than the recommended method's (below zero: worse; of losses too)."""
    low: float
    """Of the 95 % interval of that."""
    high: float
    not_inferior: float
    """The probability that it is no more than the margin worse."""
    equivalent: float
    """The probability that the two differ by less than the margin, either way."""
    relative_cost: float | None
    """Its cost by the recommended method's; None where that has none."""
    plan: Plan | None = None
    """Runs that would settle whether it is as good, or whether it is worse; None where none would or it is settled."""


@dataclass(frozen=True)
class Recommendation:
    """The method with the highest expected score."""

    method: str
    score: float
    low: float
    high: float
    """Of the 95 % interval of the score."""
    best: float
    """The probability that it has the highest expected score."""
    seeds: int
    cost: float
    """What its runs took of the axis, up to the budget."""


@dataclass(frozen=True)
class Verdict:
    """What to use for one task with one model."""

    task: str
    model: str
    metric: str
    higher_is_better: bool
    axis: str
    budget: float | None
    """None for whole runs."""
    methods: int
    """How many have been compared: those with two seeds or more."""
    use: Recommendation | None
    """None where nothing is recommended."""
    why_not: tuple[str, ...]
    """Why nothing is."""
    margin: float
    """The difference in score that does not matter."""
    settled: bool
    """Whether the recommended method is the best with 95 % or more."""
    not_separable: tuple[str, ...]
    """Methods that are worse with a probability below 95 %."""
    equivalent: tuple[Rival, ...]
    """Those of them that differ from it by less than the margin with 95 % or more."""
    cheaper: tuple[Rival, ...]
    """Cheaper methods that are as good: no more than the margin worse with 95 % or more. The cheapest first."""
    perhaps: tuple[Rival, ...]
    """Cheaper methods of which that is not settled, and which may be as good with 5 % or more."""
    baseline_name: str
    """The method that others are measured by."""
    baseline: Rival | None
    """That method; None where it is recommended itself, or is not among those compared."""
    runner_up: Rival | None
    """The method with the next highest score."""
    sentences: tuple[str, ...]
    """All of it in words."""


def decide(evidence: Evidence, baseline: str = "full") -> Verdict:
    """Makes the verdict from what methods reached.

    Args:
        evidence: what they reached.
        baseline: the method that others are measured by, if it is there.
    """
    posterior, sign = evidence.posterior, evidence.sign
    ranked = sorted(posterior.names, key=lambda name: (-sign * posterior.estimates[name].score, evidence.spent[name]))
    why_not = tuple(_insufficient(evidence, ranked))
    use = ranked[0] if ranked and not why_not else None
    if use is None:
        return _verdict(evidence, ranked, None, why_not, baseline)
    rivals = {name: _rival(evidence, use, name) for name in ranked[1:]}
    not_separable = tuple(name for name in rivals if posterior.difference(use, name).better < SURE)
    less = [name for name in rivals if _is_cheaper(evidence, name, use)]
    less.sort(key=lambda name: evidence.spent[name])
    base = next((name for name in ranked if name == baseline or name.startswith(f"{baseline} (")), baseline)
    return _verdict(
        evidence,
        ranked,
        use,
        (),
        base,
        not_separable=not_separable,
        equivalent=tuple(rivals[name] for name in not_separable if rivals[name].equivalent >= SURE),
        cheaper=tuple(rivals[name] for name in less if rivals[name].not_inferior >= SURE),
        perhaps=tuple(rivals[name] for name in less if 1 - SURE <= rivals[name].not_inferior < SURE),
        baseline_rival=rivals.get(base),
        runner_up=rivals[ranked[1]],
    )


def beats_baselines(evidence: Evidence) -> dict[str, float]:
    """The probability of each method that its expected score is above the best baseline's; empty without baselines.

    What a baseline scores on the test examples varies with them as well: for shares that is counted, as if it were
    right on examples of its own.
    """
    if not evidence.baselines or not evidence.posterior.names:
        return {}
    sign = evidence.sign
    level = max(sign * value for value in evidence.baselines.values())
    values = sign * evidence.posterior.draws
    noise = _baseline_noise(evidence, sign * level, len(values))
    return dict(zip(evidence.posterior.names, (values > level + noise[:, None]).mean(0).tolist(), strict=True))


def _baseline_noise(evidence: Evidence, level: float, number: int) -> Array:
    if not evidence.examples or not 0 < level < 1:
        return np.zeros(number)
    deviation = np.sqrt(level * (1 - level) / evidence.examples)
    noise: Array = deviation * np.random.default_rng(0).standard_normal(number)
    return noise


def _insufficient(evidence: Evidence, ranked: Sequence[str]) -> Iterator[str]:
    """Why no method is recommended."""
    runs = evidence.section.runs
    if not runs:
        yield "no method was run within the budget"
    elif len(runs) == 1 and not evidence.left_out:
        yield f"there is only one method, {next(iter(runs))}: run others on the same task and model"
    elif len(runs) == 1:
        yield f"only {next(iter(runs))} was run within the budget"
    elif len(ranked) < 2:
        yield "one seed says nothing about how much seeds vary: run at least two seeds of two methods"
    if 0 < evidence.examples < FEWEST_EXAMPLES:
        yield (
            f"{evidence.examples} test examples are too few to compare methods: evaluate on {FEWEST_EXAMPLES} or more"
        )
    if evidence.metric.startswith(LEAKS):
        yield "the scores leak the answer: they were taken while the model was given it"
    above = beats_baselines(evidence)
    if above and max(above.values()) < BEATS_BASELINES:
        name = max(evidence.baselines, key=lambda each: evidence.sign * evidence.baselines[each])
        leader = ranked[0]
        yield (
            f"nothing was learnt: no method beats the {name} answer ({evidence.baselines[name]:.4f}) beyond noise; the "
            f"highest is {leader} with {evidence.posterior.estimates[leader].score:.4f}. Likely causes: "
            + "; ".join(_causes(evidence))
        )


def _causes(evidence: Evidence) -> Iterator[str]:
    """Likely causes, those that the runs give reason for first."""
    runs = [run for of in evidence.section.runs.values() for run in of.values()]
    edges = [label for label, of in evidence.section.runs.items() if tuning_edges(tuning_of(of))]
    if edges:
        yield f"{AT_EDGE} ({_few(edges)}): widen it"
    falling = [run for run in runs if _still_falls(run)]
    if len(falling) * 2 > len(runs):
        yield "the budget: the loss on dev was still falling at the end"
    else:
        yield "the budget"
    if not any(run.tuning for run in runs):
        yield "the learning rates, which were not tuned (peftkit sweep)"
    yield "the prompt (peftkit task preview)"
    yield f"a base model that is too small or untrained ({evidence.section.model})"


def _still_falls(run: Run) -> bool:
    losses = [row["dev"].get("loss") for row in run.rows]
    known = [float(loss) for loss in losses if isinstance(loss, int | float)]
    return len(known) > 2 and known[-1] < FALLING * known[-2] and known[-1] == min(known)


def _rival(evidence: Evidence, use: str, name: str) -> Rival:
    posterior, margin = evidence.posterior, evidence.margin
    gap = posterior.difference(name, use)
    as_good, cost = posterior.not_inferior(name, use, margin), evidence.spent[use]
    better = posterior.difference(use, name).better
    open_ = as_good < SURE and better < SURE
    # Whichever of the two takes less: to show that it is no more than the margin worse, or that it is worse.
    questions = {f"that {name} is at most {margin:.4g} worse": margin + gap.mean, f"that {use} is better": -gap.mean}
    plans = [plan(evidence, use, name, wanted, shows) for shows, wanted in questions.items()] if open_ else []
    made = [each for each in plans if each]
    return Rival(
        method=name,
        difference=gap.mean,
        low=gap.low,
        high=gap.high,
        not_inferior=as_good,
        equivalent=posterior.equivalent(name, use, margin),
        relative_cost=evidence.spent[name] / cost if cost else None,
        plan=min(made, key=lambda each: each.seeds * (each.examples or 1)) if made else None,
    )


def _is_cheaper(evidence: Evidence, name: str, than: str) -> bool:
    """Whether a method costs less by a step of either at least: less than that is how far a last step overshoots."""
    step = max(evidence.step_cost(name), evidence.step_cost(than))
    return evidence.spent[than] - evidence.spent[name] > step


def _few(names: Sequence[str]) -> str:
    if len(names) <= NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def _verdict(
    evidence: Evidence,
    ranked: Sequence[str],
    use: str | None,
    why_not: tuple[str, ...],
    baseline: str,
    *,
    not_separable: tuple[str, ...] = (),
    equivalent: tuple[Rival, ...] = (),
    cheaper: tuple[Rival, ...] = (),
    perhaps: tuple[Rival, ...] = (),
    baseline_rival: Rival | None = None,
    runner_up: Rival | None = None,
) -> Verdict:
    recommended = _recommendation(evidence, use) if use else None
    made = Verdict(
        task=evidence.section.task,
        model=evidence.section.model,
        metric=evidence.metric,
        higher_is_better=evidence.higher_is_better,
        axis=evidence.axis,
        budget=evidence.budget,
        methods=len(ranked),
        use=recommended,
        why_not=why_not,
        margin=evidence.margin,
        settled=recommended is not None and recommended.best >= SURE,
        not_separable=not_separable,
        equivalent=equivalent,
        cheaper=cheaper,
        perhaps=perhaps,
        baseline_name=baseline,
        baseline=baseline_rival,
        runner_up=runner_up,
        sentences=(),
    )
    return replace(made, sentences=(*_sentences(made), *_scope(evidence, use)))


def _recommendation(evidence: Evidence, method: str) -> Recommendation:
    estimate = evidence.posterior.estimates[method]
    if estimate.low is None or estimate.high is None or estimate.best is None:  # of one seed, which is never ranked
        raise ValueError(f"{method} has one seed")
    return Recommendation(
        method, estimate.score, estimate.low, estimate.high, estimate.best, estimate.seeds, evidence.spent[method]
    )


def _sentences(found: Verdict) -> Iterator[str]:
    use = found.use
    if use is None or found.runner_up is None:
        yield "No recommendation."
        yield from (f"{reason[0].upper()}{reason[1:]}." for reason in found.why_not)
        return
    score = f"{found.metric} {use.score:.4f} (95 % interval {use.low:.4f} – {use.high:.4f}, {use.seeds} seeds)"
    within = "" if found.budget is None else f" within {write_cost(found.budget, found.axis)}"
    yield f"Use {use.method}{within}: {score}."
    if found.settled:
        yield f"It is the best of {found.methods} methods: {write_probability(use.best)}."
    else:
        yield f"Whether it is the best of {found.methods} methods is not settled: {write_probability(use.best)}."
    if found.not_separable:
        yield f"Not separable from it: {_few(found.not_separable)}."
    if found.equivalent:
        close = [f"{each.method} ({write_probability(each.equivalent)})" for each in found.equivalent]
        yield f"Equivalent to it, less than {found.margin:.4g} apart: {_few(close)}."
    yield from _of_cheaper_ones(found)
    yield from _of_the_baseline(found, use.method)
    rival = found.runner_up
    if rival not in found.equivalent:
        cost = "" if rival.relative_cost is None else f", at {rival.relative_cost:.2f} of the cost"
        behind = f"{-rival.difference:.4f} behind ({-rival.high:.4f} – {-rival.low:.4f})"
        more = f" {_needed(rival.plan)}" if rival.method in found.not_separable else ""
        yield f"The runner-up, {rival.method}, is {behind}{cost}.{more}"


def _of_cheaper_ones(found: Verdict) -> Iterator[str]:
    margin = f"{found.margin:.4g}"
    if found.cheaper:
        each = found.cheaper[0]
        more = f"; so are {_few([other.method for other in found.cheaper[1:]])}" if found.cheaper[1:] else ""
        yield (
            f"As good and cheaper: {each.method}, at {each.relative_cost:.2f} of the cost (at most {margin} worse: "
            f"{write_probability(each.not_inferior)}){more}."
        )
    if found.perhaps:
        each = max(found.perhaps, key=lambda rival: rival.not_inferior)
        others = [other.method for other in found.perhaps if other is not each]
        more = f" (nor of {_few(others)})" if others else ""
        yield (
            f"Not settled whether {each.method} is as good at {each.relative_cost:.2f} of the cost{more}: at most "
            f"{margin} worse with {write_probability(each.not_inferior)}. {_needed(each.plan)}"
        )


def _of_the_baseline(found: Verdict, use: str) -> Iterator[str]:
    name = "Full fine-tuning" if found.baseline_name.split(" ")[0] == "full" else found.baseline_name
    base = found.baseline
    if base is not None:
        verb = "add" if found.higher_is_better else "lower the score by"
        cost = "" if base.relative_cost is None else f" and cost {base.relative_cost:.2f} times as much"
        yield f"{name} would {verb} {base.difference:+.4f} ({base.low:+.4f} – {base.high:+.4f}){cost}."
    elif use != found.baseline_name:
        yield f"{name} is not among them: what it would add is not known."


def _needed(needed: Plan | None) -> str:
    """The further runs in words."""
    if needed is None:
        return "No practical number of runs would settle it: they differ too little, or their tuning varies too much."
    examples = f" on about {_rounded(needed.examples)} test examples" if needed.examples else ""
    costs = [
        *([] if needed.gmacs is None else [write_cost(needed.gmacs, "gmacs")]),
        *([] if needed.minutes is None else [write_cost(60 * needed.minutes, "seconds")]),
    ]
    more = f"{_rounded(needed.more_runs)} more runs{': ' if costs else ''}{', '.join(costs)}"
    return f"About {_rounded(needed.seeds)} seeds of each{examples} would show {needed.shows} ({more})."


def _rounded(number: int) -> str:
    """An estimated number, with two digits."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _scope(evidence: Evidence, use: str | None) -> Iterator[str]:
    """What the verdict holds for."""
    section = evidence.section
    fixed = " and this training sample" if any("held fixed" in remark for remark in section.remarks) else ""
    if use is not None:
        yield f"This holds for {section.task} with {section.model}{fixed}."
    edges = [label for label, of in section.runs.items() if tuning_edges(tuning_of(of))]
    if edges and use is not None:
        yield f"{AT_EDGE[0].upper()}{AT_EDGE[1:]}: {_few(edges)}. Another range may give another score."
    if section.model in BUILT_IN_MODELS:
        yield f"{section.model} is a pocket model for trying things out: this says nothing about larger models."


def percent(probability: float) -> str:
    """A probability in per cent, rounded down and never to certainty: ``97 %``, ``> 99 %``, ``< 1 %``."""
    if probability > 0.99:
        return "> 99 %"
    return "< 1 %" if probability < 0.01 else f"{math.floor(100 * probability + 1e-9)} %"


def write_probability(probability: float, name: str = "P") -> str:
    """A probability in a sentence: ``P = 97 %``, ``P > 99 %``."""
    text = percent(probability)
    return f"{name} {text}" if text[0] in "<>" else f"{name} = {text}"
