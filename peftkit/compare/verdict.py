"""Decides which method to recommend, and how certain that is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from peftkit.compare.evidence import Evidence
from peftkit.compare.input.load_runs import LoadedRun
from peftkit.compare.input.tuning_records import AT_EDGE, tuning_record
from peftkit.compare.method_notes import TEACHER_FORCED_PREFIX
from peftkit.compare.power_analysis import SETTLED_PROBABILITY, Plan, plan_runs
from peftkit.compare.statistics.observations import Array
from peftkit.compare.units import format_cost
from peftkit.recipe.model_names import BUILT_IN_MODELS
from peftkit.run_directory import tuning_edges

MIN_TEST_EXAMPLES = 30
"""No method is recommended with fewer test examples."""
BEATS_BASELINES = 0.975
"""The probability above which a method beats the baselines, which then lie below its 95 % interval. With many methods
that are no better, one of them reaches 95 % by chance in more than 5 of 100 comparisons."""
STILL_FALLING = 0.99
"""A dev loss is still falling if the last value is below this share of the one before."""
MAX_NAMED = 6
"""The number of methods that a sentence lists by name."""


@dataclass(frozen=True)
class Rival:
    """Another method, compared with the recommended one."""

    method: str
    difference: float
    """Its score minus the recommended method's, positive if better (for losses too)."""
    low: float
    """Lower end of the 95 % interval of the difference."""
    high: float
    """Upper end of the 95 % interval of the difference."""
    not_inferior: float
    """The probability that it is at most the margin worse."""
    equivalent: float
    """The probability that the two differ by less than the margin."""
    relative_cost: float | None
    """Its cost divided by the recommended method's; None if the latter is zero."""
    plan: Plan | None = None
    """The runs needed to show that it is as good, or that it is worse; None if settled or not practical."""


@dataclass(frozen=True)
class Recommendation:
    """The method with the highest expected score."""

    method: str
    score: float
    low: float
    """Lower end of the 95 % interval of the score."""
    high: float
    """Upper end of the 95 % interval of the score."""
    best: float
    """The probability that it has the highest expected score."""
    seeds: int
    cost: float
    """The mean cost of its runs, up to the budget."""


@dataclass(frozen=True, repr=False)
class Verdict:
    """The recommendation for one task and model."""

    task: str
    model: str
    metric: str
    higher_is_better: bool
    axis: str
    budget: float | None
    """None for whole runs."""
    methods: int
    """The number of compared methods, which are those with two seeds or more."""
    use: Recommendation | None
    """The recommended method; None if there is no recommendation."""
    why_not: tuple[str, ...]
    """Why there is no recommendation."""
    margin: float
    """The largest score difference that does not matter."""
    settled: bool
    """Whether the recommended method is the best with a probability of 95 % or more."""
    not_separable: tuple[str, ...]
    """Methods that are worse with a probability below 95 %."""
    equivalent: tuple[Rival, ...]
    """Members of ``not_separable`` that differ by less than the margin with a probability of 95 % or more."""
    cheaper: tuple[Rival, ...]
    """Cheaper methods that are at most the margin worse with a probability of 95 % or more, cheapest first."""
    perhaps: tuple[Rival, ...]
    """Cheaper methods for which that probability is between 5 % and 95 %, cheapest first."""
    baseline_name: str
    """The method that others are compared with."""
    baseline: Rival | None
    """The baseline method; None if it is the recommended method or was not compared."""
    runner_up: Rival | None
    """The method with the second highest score."""
    sentences: tuple[str, ...]
    """The verdict as sentences."""

    def __repr__(self) -> str:
        return "\n".join(self.sentences)


def decide(evidence: Evidence, baseline: str = "full") -> Verdict:
    """Decide which method to recommend.

    Args:
        evidence: the scores and costs of the methods.
        baseline: the method to compare others with, if it was run.

    Returns:
        The verdict; without a recommendation, it gives the reasons.
    """
    posterior, sign = evidence.posterior, evidence.sign
    ranked = sorted(posterior.names, key=lambda name: (-sign * posterior.estimates[name].score, evidence.costs[name]))
    why_not = tuple(_insufficient(evidence, ranked))
    use = ranked[0] if ranked and not why_not else None
    rivals = {name: _rival(evidence, use, name) for name in ranked[1:]} if use else {}
    not_separable = tuple(
        name for name in rivals if use and posterior.difference(use, name).better < SETTLED_PROBABILITY
    )
    cheaper = [name for name in rivals if use and _is_cheaper(evidence, name, use)]
    cheaper.sort(key=lambda name: evidence.costs[name])
    if use:
        baseline = next((name for name in ranked if name == baseline or name.startswith(f"{baseline} (")), baseline)
    recommended = _recommendation(evidence, use) if use else None
    verdict = Verdict(
        task=evidence.run_group.task,
        model=evidence.run_group.model,
        metric=evidence.metric,
        higher_is_better=evidence.higher_is_better,
        axis=evidence.axis,
        budget=evidence.budget,
        methods=len(ranked),
        use=recommended,
        why_not=why_not,
        margin=evidence.margin,
        settled=recommended is not None and recommended.best >= SETTLED_PROBABILITY,
        not_separable=not_separable,
        equivalent=tuple(rivals[name] for name in not_separable if rivals[name].equivalent >= SETTLED_PROBABILITY),
        cheaper=tuple(rivals[name] for name in cheaper if rivals[name].not_inferior >= SETTLED_PROBABILITY),
        perhaps=tuple(
            rivals[name]
            for name in cheaper
            if 1 - SETTLED_PROBABILITY <= rivals[name].not_inferior < SETTLED_PROBABILITY
        ),
        baseline_name=baseline,
        baseline=rivals.get(baseline),
        runner_up=rivals[ranked[1]] if use else None,
        sentences=(),
    )
    return replace(verdict, sentences=(*_sentences(verdict), *_scope(evidence, use)))


def probability_above_baselines(evidence: Evidence) -> dict[str, float]:
    """Compute the probability of each method to score higher than the best input-blind baseline.

    A baseline's score varies with the test examples too. For metrics that are shares, this is taken into account as
    the sampling error of a share on independent examples.

    Args:
        evidence: the scores of the methods and baselines.

    Returns:
        The probability by method; empty if no baselines are recorded.
    """
    if not evidence.baselines or not evidence.posterior.names:
        return {}
    sign = evidence.sign
    level = max(sign * value for value in evidence.baselines.values())
    values = sign * evidence.posterior.draws
    noise = _baseline_noise(evidence, sign * level, len(values))
    return dict(zip(evidence.posterior.names, (values > level + noise[:, None]).mean(0).tolist(), strict=True))


def _baseline_noise(evidence: Evidence, level: float, number: int) -> Array:
    if not evidence.num_examples or not 0 < level < 1:
        return np.zeros(number)
    deviation = np.sqrt(level * (1 - level) / evidence.num_examples)
    noise: Array = deviation * np.random.default_rng(0).standard_normal(number)
    return noise


def _insufficient(evidence: Evidence, ranked: Sequence[str]) -> Iterator[str]:
    """Why no method is recommended; nothing if one can be."""
    runs = evidence.run_group.runs
    if not runs:
        yield "no method was run within the budget"
    elif len(runs) == 1 and not evidence.left_out:
        yield f"there is only one method, {next(iter(runs))}: run others on the same task and model"
    elif len(runs) == 1:
        yield f"only {next(iter(runs))} was run within the budget"
    elif len(ranked) < 2:
        yield "the variance between seeds is unknown: run at least two seeds of two methods"
    if 0 < evidence.num_examples < MIN_TEST_EXAMPLES:
        number = f"{evidence.num_examples} {evidence.run_group.test_split} examples"
        yield f"{number} are too few to compare methods: evaluate on {MIN_TEST_EXAMPLES} or more"
    if evidence.metric.startswith(TEACHER_FORCED_PREFIX):
        yield "the scores leak the answer: they are teacher-forced"
    above = probability_above_baselines(evidence)
    if above and max(above.values()) < BEATS_BASELINES:
        name = max(evidence.baselines, key=lambda each: evidence.sign * evidence.baselines[each])
        leader = ranked[0]
        yield (
            f"no method learned the task: none beats the {name} answer ({evidence.baselines[name]:.4f}) beyond noise; "
            f"the best score is {evidence.posterior.estimates[leader].score:.4f}, by {leader}. Likely causes: "
            + "; ".join(_likely_causes(evidence))
        )


def _likely_causes(evidence: Evidence) -> Iterator[str]:
    """Why no method beats the baselines; the causes that the runs give evidence of come first."""
    all_runs = [run for runs in evidence.run_group.runs.values() for run in runs.values()]
    at_edge = _tuned_to_the_edge(evidence)
    if at_edge:
        yield f"{AT_EDGE} ({_name_some(at_edge)}): widen it"
    falling = [run for run in all_runs if _is_still_falling(run)]
    if len(falling) * 2 > len(all_runs):
        yield "the budget: the dev loss was still falling at the end"
    else:
        yield "the budget"
    if not any(run.tuning for run in all_runs):
        yield "the learning rates, which were not tuned (peftkit sweep)"
    yield "the prompt (peftkit task preview)"
    yield f"a base model that is too small or untrained ({evidence.run_group.model})"


def _is_still_falling(run: LoadedRun) -> bool:
    """Whether the dev loss was still falling at the end of a run."""
    losses = [row["dev"].get("loss") for row in run.evaluations]
    known = [float(loss) for loss in losses if isinstance(loss, int | float)]
    return len(known) > 2 and known[-1] < STILL_FALLING * known[-2] and known[-1] == min(known)


def _tuned_to_the_edge(evidence: Evidence) -> list[str]:
    """The methods whose best settings lie at the edge of the tuned range."""
    return [label for label, runs in evidence.run_group.runs.items() if tuning_edges(tuning_record(runs))]


def _rival(evidence: Evidence, use: str, name: str) -> Rival:
    posterior, margin = evidence.posterior, evidence.margin
    gap = posterior.difference(name, use)
    not_inferior, cost = posterior.not_inferior(name, use, margin), evidence.costs[use]
    is_open = not_inferior < SETTLED_PROBABILITY and posterior.difference(use, name).better < SETTLED_PROBABILITY
    # Either answer settles the question: plan for the one that takes fewer runs.
    questions = {f"that {name} is at most {margin:.4g} worse": margin + gap.mean, f"that {use} is better": -gap.mean}
    plans = [plan_runs(evidence, use, name, effect, shows) for shows, effect in questions.items()] if is_open else []
    return Rival(
        method=name,
        difference=gap.mean,
        low=gap.low,
        high=gap.high,
        not_inferior=not_inferior,
        equivalent=posterior.equivalent(name, use, margin),
        relative_cost=evidence.costs[name] / cost if cost else None,
        plan=min((each for each in plans if each), key=lambda each: each.seeds * (each.examples or 1), default=None),
    )


def _is_cheaper(evidence: Evidence, name: str, than: str) -> bool:
    """Whether a method is cheaper by more than one step of either method, as the last step may exceed the budget."""
    step = max(evidence.step_cost(name), evidence.step_cost(than))
    return evidence.costs[than] - evidence.costs[name] > step


def _name_some(names: Sequence[str]) -> str:
    if len(names) <= MAX_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED} more"


def _recommendation(evidence: Evidence, method: str) -> Recommendation:
    estimate = evidence.posterior.estimates[method]
    if estimate.low is None or estimate.high is None or estimate.best is None:  # one seed; such methods are not ranked
        raise ValueError(f"{method} has one seed")
    return Recommendation(
        method, estimate.score, estimate.low, estimate.high, estimate.best, estimate.seeds, evidence.costs[method]
    )


def _sentences(verdict: Verdict) -> Iterator[str]:
    """The verdict as sentences, without its scope."""
    use = verdict.use
    if use is None or verdict.runner_up is None:
        yield "No recommendation."
        yield from (f"{reason[0].upper()}{reason[1:]}." for reason in verdict.why_not)
        return
    score = f"{verdict.metric} {use.score:.4f} (95 % interval {use.low:.4f} – {use.high:.4f}, {use.seeds} seeds)"
    within = "" if verdict.budget is None else f" within {format_cost(verdict.budget, verdict.axis)}"
    yield f"Use {use.method}{within}: {score}."
    if verdict.settled:
        yield f"It is the best of {verdict.methods} methods: {format_probability(use.best)}."
    else:
        yield f"It is not certain to be the best of {verdict.methods} methods: {format_probability(use.best)}."
    if verdict.not_separable:
        yield f"Not distinguishable from it: {_name_some(verdict.not_separable)}."
    if verdict.equivalent:
        close = [f"{each.method} ({format_probability(each.equivalent)})" for each in verdict.equivalent]
        yield f"Equivalent to it, less than {verdict.margin:.4g} apart: {_name_some(close)}."
    yield from _cheaper_sentences(verdict)
    yield from _baseline_sentences(verdict, use.method)
    rival = verdict.runner_up
    if rival not in verdict.equivalent:
        cost = "" if rival.relative_cost is None else f", at {rival.relative_cost:.2f} of the cost"
        behind = f"{-rival.difference:.4f} behind ({-rival.high:.4f} – {-rival.low:.4f})"
        more = f" {_describe_plan(rival.plan)}" if rival.method in verdict.not_separable else ""
        yield f"The runner-up, {rival.method}, is {behind}{cost}.{more}"


def _cheaper_sentences(verdict: Verdict) -> Iterator[str]:
    margin = f"{verdict.margin:.4g}"
    if verdict.cheaper:
        rival, *others = verdict.cheaper
        more = f"; so are {_name_some([other.method for other in others])}" if others else ""
        yield (
            f"As good and cheaper: {rival.method}, at {rival.relative_cost:.2f} of the cost (at most {margin} worse: "
            f"{format_probability(rival.not_inferior)}){more}."
        )
    if verdict.perhaps:
        rival = max(verdict.perhaps, key=lambda each: each.not_inferior)
        others = [other for other in verdict.perhaps if other is not rival]
        more = f"; perhaps also {_name_some([other.method for other in others])}" if others else ""
        yield (
            f"Perhaps as good and cheaper: {rival.method}, at {rival.relative_cost:.2f} of the cost (at most {margin} "
            f"worse: {format_probability(rival.not_inferior)}){more}. {_describe_plan(rival.plan)}"
        )


def _baseline_sentences(verdict: Verdict, use: str) -> Iterator[str]:
    name = "Full fine-tuning" if verdict.baseline_name.split(" ")[0] == "full" else verdict.baseline_name
    rival = verdict.baseline
    if rival is not None:
        verb = "add" if verdict.higher_is_better else "lower the score by"
        cost = "" if rival.relative_cost is None else f" and cost {rival.relative_cost:.2f} times as much"
        yield f"{name} would {verb} {rival.difference:+.4f} ({rival.low:+.4f} – {rival.high:+.4f}){cost}."
    elif use != verdict.baseline_name:
        yield f"{name} is not among the compared methods."


def _describe_plan(runs: Plan | None) -> str:
    """A sentence on the runs that would settle an open question."""
    if runs is None:
        return "No practical number of runs would settle it: they differ too little, or their tuning varies too much."
    examples = f" on about {_round(runs.examples)} test examples" if runs.examples else ""
    costs = [
        *([] if runs.gmacs is None else [format_cost(runs.gmacs, "gmacs")]),
        *([] if runs.minutes is None else [format_cost(60 * runs.minutes, "seconds")]),
    ]
    more = f"{_round(runs.more_runs)} more runs{': ' if costs else ''}{', '.join(costs)}"
    return f"About {_round(runs.seeds)} seeds of each{examples} would show {runs.shows} ({more})."


def _round(number: int) -> str:
    """Format an estimated number with two significant digits."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _scope(evidence: Evidence, use: str | None) -> Iterator[str]:
    """Sentences on what the verdict is valid for."""
    group = evidence.run_group
    fixed = " and this training sample" if any("held fixed" in remark for remark in group.remarks) else ""
    if use is not None:
        yield f"This holds for {group.task} with {group.model}{fixed}."
    at_edge = _tuned_to_the_edge(evidence)
    if at_edge and use is not None:
        yield f"{AT_EDGE[0].upper()}{AT_EDGE[1:]}: {_name_some(at_edge)}. A wider range may give a better score."
    if group.model in BUILT_IN_MODELS:
        yield f"{group.model} is a pocket model for quick trials: results do not carry over to larger models."


def format_percent(probability: float) -> str:
    """Format a probability as a percentage, rounded down and never to certainty: ``97 %``, ``> 99 %``, ``< 1 %``."""
    if probability > 0.99:
        return "> 99 %"
    return "< 1 %" if probability < 0.01 else f"{math.floor(100 * probability + 1e-9)} %"


def format_probability(probability: float, name: str = "P") -> str:
    """Format a probability for a sentence: ``P = 97 %``, ``P > 99 %``.

    Args:
        probability: between 0 and 1.
        name: what stands to the left of the sign.

    Returns:
        The text.
    """
    text = format_percent(probability)
    return f"{name} {text}" if text[0] in "<>" else f"{name} = {text}"
