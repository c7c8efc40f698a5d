"""Scores of input-blind baselines, which a model must beat to have learned anything from its input."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from peftkit.answer_texts.text_normalization import normalize, text_hash
from peftkit.components import Example, Metric, Objective
from peftkit.data.pipeline import PreparedData
from peftkit.data.tokenized_split import TokenizedSplit
from peftkit.errors import RunError
from peftkit.evaluate.evaluator import explain_metric_errors
from peftkit.recipe import Recipe

RANDOM_DRAWS = 5
"""Random baselines whose scores are averaged; a single one for generated text."""
MIN_ROWS_TO_CHECK = 10
"""Smaller splits may have a single answer by chance."""
MAX_CANDIDATES = 200
"""How many answers, the most frequent first, are tried as the constant answer."""
PAIRS_PER_ROUND = 6_000
"""About how many pairs of an answer and a row are scored in each round of the search for the best constant text."""
FINALISTS = 4
"""When no more texts are left, they are scored on all rows."""

BaselineScores = dict[str, dict[str, dict[str, float]]]
"""Baseline → split → the metrics' values."""


def compute_baselines(recipe: Recipe, data: PreparedData) -> BaselineScores:
    """Return the scores of three input-blind baselines on dev, test and the evaluation sets.

    ``constant`` always gives the answer that scores best on the split itself (see ``best_answer``); ``majority`` gives
    the most frequent answer of the training rows; ``random`` draws among the labels or choices, or among the training
    rows' answers if text is generated. The answer of a multiple-choice task is the number of a choice. Predictions that
    are no texts, such as rankings, have no constant; what they score at random is computed by the metrics.

    Args:
        recipe: The recipe of the run; its seed is used.
        data: The data of the run.
    """
    objective, splits = data.objective.component, data.final_splits
    majority = objective.typical_answer(data.answer_counts)
    best = {split.name: best_answer(recipe, objective, split, majority) for split in splits}
    return {
        "constant": {s.name: _score(recipe, s, partial(objective.answer_text, best[s.name])) for s in splits},
        "majority": {s.name: _score(recipe, s, partial(objective.answer_text, majority)) for s in splits},
        "random": {s.name: _score_random(recipe, objective, s, sorted(data.answer_counts)) for s in splits},
    }


def best_answer(recipe: Recipe, objective: Objective, split: TokenizedSplit, majority: str | None = None) -> str:
    """Return the answer that scores best when it is given to every example, by the selection metric.

    All labels or choices are tried, or the answers of the split if text is generated, at most ``MAX_CANDIDATES`` of
    them. Ties go to the most frequent answer. With many texts and rows, texts are first scored on a sample of the rows;
    the best quarter and the most frequent text are then scored on more rows, until the last few are scored on all of
    them. If the loss selects the checkpoint, the task's own metric is used; if no metric of the recipe computes that,
    the most frequent answer is returned.

    Args:
        recipe: The recipe of the run.
        objective: The objective of the run.
        split: The examples to answer.
        majority: The most frequent answer of the training rows. It is tried too, so that ``constant`` scores no worse
            than ``majority``.
    """
    answer_counts = split.statistics.answer_counts
    metric, value = _deciding_metric(recipe)
    if metric is None or not metric.applies_to(split.examples):
        return objective.typical_answer(answer_counts)
    sign = 1.0 if type(metric).higher_is_better else -1.0
    candidates = _candidate_answers(recipe, objective, split, answer_counts)
    always_kept = {candidates[0], majority}
    candidates += [majority] if majority is not None and majority not in candidates else []
    while True:
        sample_rows = objective.generates and len(candidates) > FINALISTS
        stride = max(1, len(candidates) * len(split.examples) // PAIRS_PER_ROUND) if sample_rows else 1
        examples = split.examples[::stride]
        references = [_references(e) for e in examples]
        rank: dict[str, float] = {}
        for candidate in candidates:
            texts = [objective.answer_text(candidate, e) for e in examples]
            with explain_metric_errors(metric):
                score = float(metric._compute(texts, references, examples)[value])
            rank[candidate] = -sign * round(score, 12) if math.isfinite(score) else math.inf
        ranked = sorted(candidates, key=rank.__getitem__)  # stable: ties stay in order of frequency
        if stride == 1:
            return ranked[0]
        kept = {*always_kept, *ranked[: len(candidates) // 4]}
        candidates = [candidate for candidate in candidates if candidate in kept]


def _deciding_metric(recipe: Recipe) -> tuple[Metric | None, str]:
    """Return the metric that decides which constant answer is best, and the name of its value; None if none can."""
    for value in (recipe.selection_metric, type(recipe.task).selection_metric):
        for metric in recipe.metric:
            if metric.input == "prediction" and value in metric.value_names:
                return metric, value
    return None, ""


def _candidate_answers(
    recipe: Recipe, objective: Objective, split: TokenizedSplit, answer_counts: Mapping[str, int]
) -> list[str]:
    """Return the answers to try, most frequent first; a hash decides which of equally frequent ones are left out.

    Those that the objective proposes are always tried, unless they are many.
    """
    proposed = objective.possible_answers(recipe.task, split.examples)
    counts = dict.fromkeys(proposed, 0) | dict(answer_counts)
    most_frequent = sorted(counts, key=lambda answer: (-counts[answer], text_hash(answer)))[:MAX_CANDIDATES]
    kept = {*most_frequent, *(proposed if len(proposed) <= MAX_CANDIDATES // 2 else ())}
    return sorted(kept, key=lambda answer: (-counts[answer], answer))


def check_not_trivial(recipe: Recipe, data: PreparedData) -> None:
    """Reject data in which one answer is always correct, since a score on it says nothing about the model.

    Evaluation sets may be such data, as those of challenges with one answer; their baselines show it.

    Args:
        recipe: The recipe of the run.
        data: The data of the run.

    Raises:
        RunError: A split of ten rows or more has such an answer.
    """
    sets = {each.name for each in data.sets}
    for split in data.final_splits:
        if split.name in sets:
            continue
        answer = _answer_of_all_rows(data.objective.component, split)
        if len(split.examples) >= MIN_ROWS_TO_CHECK and answer is not None:
            problem, remedy = data.objective.component.describe_constant_answer(answer)
            raise RunError(f"task: in every row of {split.name} {problem}, so an input-blind model scores 1; {remedy}")


def _answer_of_all_rows(objective: Objective, split: TokenizedSplit) -> str | None:
    """Return the answer that is correct in every row, ignoring case and whitespace of texts; None if there is none."""
    if objective.generates:
        rows = [{normalize(text): text for text in _references(e)} for e in split.examples]
    else:
        # What is the answer of a row may not say all of it, such as the most frequent of its tags.
        pairs = zip(split.statistics.answers, split.examples, strict=True)
        rows = [{a: a} if objective.answer_text(a, e) in _references(e) else {} for a, e in pairs]
    return next((text for key, text in rows[0].items() if all(key in row for row in rows)), None)


def _score_random(
    recipe: Recipe, objective: Objective, split: TokenizedSplit, answers: Sequence[str]
) -> dict[str, float]:
    rng = random.Random(f"{recipe.run.seed}/{split.name}")  # noqa: S311 - a baseline, no secret
    number = 1 if objective.generates else RANDOM_DRAWS

    def draw(example: Example) -> str:
        return (
            rng.choice(example.candidates)
            if example.candidates
            else objective.answer_text(rng.choice(answers), example)
        )

    draws = [_score(recipe, split, draw) for _ in range(number)]
    expected: dict[str, float] = {}
    for metric in recipe.metric:
        with explain_metric_errors(metric):
            expected |= metric.compute_by_chance(split.examples)
    return {key: sum(each[key] for each in draws) / number for key in draws[0]} | expected


def _score(recipe: Recipe, split: TokenizedSplit, answer: Callable[[Example], str]) -> dict[str, float]:
    predictions = [answer(example) for example in split.examples]
    references = [_references(e) for e in split.examples]
    values: dict[str, float] = {}
    for metric in recipe.metric:
        if metric.input == "prediction" and metric.applies_to(split.examples):
            with explain_metric_errors(metric):
                computed = metric.compute(predictions, references, split.examples)
            values |= {k: float(v) for k, v in computed.items()}
    return values


def _references(example: Example) -> list[str]:
    return list(example.references or (example.target,))
