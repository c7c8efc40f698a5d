"""Scores of input-blind baselines, which a model must beat to have learned anything from its input."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from peftkit.components import Example, Metric
from peftkit.data.pipeline import EvaluationSplit, PreparedData
from peftkit.data.tokenize import gold_answer, text_hash
from peftkit.errors import RunError
from peftkit.recipe import Recipe
from peftkit.text_normalization import normalize

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
    """Return the scores of three input-blind baselines on dev and test.

    ``constant`` always gives the answer that scores best on the split itself (see ``best_answer``); ``majority`` gives
    the most frequent answer of the training rows; ``random`` draws among the labels or choices, or among the training
    rows' answers if text is generated. The answer of a multiple-choice task is the number of a choice.

    Args:
        recipe: The recipe of the run; its seed is used.
        data: The data of the run.
    """
    splits, majority = data.final_splits, _most_frequent(data.answer_counts)
    best = {split.name: best_answer(recipe, split, majority) for split in splits}
    return {
        "constant": {s.name: _score(recipe, s, _constant_answer(recipe, best[s.name])) for s in splits},
        "majority": {s.name: _score(recipe, s, _constant_answer(recipe, majority)) for s in splits},
        "random": {s.name: _score_random(recipe, s, sorted(data.answer_counts)) for s in splits},
    }


def best_answer(recipe: Recipe, split: EvaluationSplit, majority: str | None = None) -> str:
    """Return the answer that scores best when it is given to every example, by the selection metric.

    All labels or choices are tried, or the answers of the split if text is generated, at most ``MAX_CANDIDATES`` of
    them. Ties go to the most frequent answer. With many texts and rows, texts are first scored on a sample of the rows;
    the best quarter and the most frequent text are then scored on more rows, until the last few are scored on all of
    them. If the loss selects the checkpoint, the task's own metric is used; if no metric of the recipe computes that,
    the most frequent answer is returned.

    Args:
        recipe: The recipe of the run.
        split: The examples to answer.
        majority: The most frequent answer of the training rows. It is tried too, so that ``constant`` scores no worse
            than ``majority``.
    """
    answer_counts = _count_answers(recipe, split)
    metric, value = _deciding_metric(recipe)
    if metric is None:
        return _most_frequent(answer_counts)
    sign = 1.0 if type(metric).higher_is_better else -1.0
    candidates = _candidate_answers(recipe, split, answer_counts)
    always_kept = {candidates[0], majority}
    candidates += [majority] if majority is not None and majority not in candidates else []
    while True:
        sample_rows = recipe.task.kind == "generation" and len(candidates) > FINALISTS
        stride = max(1, len(candidates) * len(split.examples) // PAIRS_PER_ROUND) if sample_rows else 1
        examples = split.examples[::stride]
        references = [_references(e) for e in examples]
        rank: dict[str, float] = {}
        for candidate in candidates:
            answer = _constant_answer(recipe, candidate)
            score = float(metric._compute([answer(e) for e in examples], references, examples)[value])
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


def _candidate_answers(recipe: Recipe, split: EvaluationSplit, answer_counts: Mapping[str, int]) -> list[str]:
    """Return the answers to try, most frequent first; a hash decides which of equally frequent ones are left out."""
    possible = recipe.task.labels
    if recipe.task.kind == "multiple_choice":
        possible = tuple(map(str, range(max(len(e.candidates) for e in split.examples))))
    counts = dict.fromkeys(possible, 0) | dict(answer_counts)
    most_frequent = sorted(counts, key=lambda answer: (-counts[answer], text_hash(answer)))[:MAX_CANDIDATES]
    return sorted(most_frequent, key=lambda answer: (-counts[answer], answer))


def check_not_trivial(recipe: Recipe, data: PreparedData) -> None:
    """Reject data in which one answer is always correct, since a score on it says nothing about the model.

    Args:
        recipe: The recipe of the run.
        data: The data of the run.

    Raises:
        RunError: A split of ten rows or more has such an answer.
    """
    for split in data.final_splits:
        answer = _answer_of_all_rows(recipe, split)
        if len(split.examples) >= MIN_ROWS_TO_CHECK and answer is not None:
            if recipe.task.kind == "multiple_choice":
                problem = f"choice {int(answer) + 1} is correct"
                remedy = "shuffle the choices of each row (multiple_choice has shuffle_choices = true)"
            else:
                problem, remedy = f"the answer is {answer!r}", "use rows with different answers"
            raise RunError(f"task: in every row of {split.name} {problem}, so an input-blind model scores 1; {remedy}")


def _answer_of_all_rows(recipe: Recipe, split: EvaluationSplit) -> str | None:
    """Return the answer that is correct in every row, ignoring case and whitespace of texts; None if there is none."""
    if recipe.task.kind == "generation":
        rows = [{normalize(text): text for text in _references(e)} for e in split.examples]
    else:
        rows = [{gold_answer(e, recipe.task): gold_answer(e, recipe.task)} for e in split.examples]
    return next((text for key, text in rows[0].items() if all(key in row for row in rows)), None)


def _count_answers(recipe: Recipe, split: EvaluationSplit) -> Counter[str]:
    return Counter(gold_answer(e, recipe.task) for e in split.examples)


def _most_frequent(answer_counts: Mapping[str, int]) -> str:
    return min(answer_counts, key=lambda answer: (-answer_counts[answer], answer))


def _constant_answer(recipe: Recipe, answer: str) -> Callable[[Example], str]:
    if recipe.task.kind == "multiple_choice":
        return lambda example: example.candidates[min(int(answer), len(example.candidates) - 1)]
    return lambda _: answer


def _score_random(recipe: Recipe, split: EvaluationSplit, answers: Sequence[str]) -> dict[str, float]:
    rng = random.Random(f"{recipe.run.seed}/{split.name}")  # noqa: S311 - a baseline, no secret
    number = 1 if recipe.task.kind == "generation" else RANDOM_DRAWS
    draws = [_score(recipe, split, lambda e: rng.choice(e.candidates or answers)) for _ in range(number)]
    return {key: sum(draw[key] for draw in draws) / number for key in draws[0]}


def _score(recipe: Recipe, split: EvaluationSplit, answer: Callable[[Example], str]) -> dict[str, float]:
    predictions = [answer(example) for example in split.examples]
    references = [_references(e) for e in split.examples]
    values: dict[str, float] = {}
    for metric in recipe.metric:
        if metric.input == "prediction":
            values |= {k: float(v) for k, v in metric.compute(predictions, references, split.examples).items()}
    return values


def _references(example: Example) -> list[str]:
    return list(example.references or (example.target,))
