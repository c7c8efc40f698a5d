"""What can be scored without reading the input: no score of a model means anything beside these."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from peftkit.components import Example, Metric
from peftkit.errors import RunError
from peftkit.recipe import Recipe
from peftkit.runner.data import Data, EvaluationSplit
from peftkit.runner.encoding import answer, source_key
from peftkit.texts import normalised

DRAWS = 5  # of random answers, whose scores are averaged; one where text is generated
FEW = 10  # rows that may be of one answer by chance
MOST = 200
"""Answers that are tried as the constant one; of more, the most frequent."""
PAIRS = 6_000
"""About how many answers times rows are scored in one round of the search for the best constant text."""
LAST = 4
"""So few texts are scored on all rows."""

Scores = dict[str, dict[str, dict[str, float]]]
"""Baseline → split → the metrics' values."""


def baselines(recipe: Recipe, data: Data) -> Scores:
    """The scores on dev and test of three models that never read.

    ``constant`` always gives the one answer that scores best in the split itself (see ``best_answer``); ``majority``
    the one that is right most often in the training rows; ``random`` draws among the labels or choices, or among the
    training rows' answers where text is generated. The answer of a multiple-choice task is the number of a choice.
    Seeded by the recipe.
    """
    splits, majority = data.selected, _commonest(data.golds)
    return {
        "constant": {s.name: _scored(recipe, s, _always(recipe, best_answer(recipe, s, majority))) for s in splits},
        "majority": {s.name: _scored(recipe, s, _always(recipe, majority)) for s in splits},
        "random": {s.name: _drawn(recipe, s, sorted(data.golds)) for s in splits},
    }


def best_answer(recipe: Recipe, split: EvaluationSplit, majority: str | None = None) -> str:
    """The answer that scores best when every example gets it, by the value that selects the checkpoint.

    All labels or choices are tried, or the texts that are right in the split; of more than ``MOST`` the most frequent.
    Of equally good answers it is the most frequent. Where there are many texts and rows, texts are first scored on some
    of the rows; the best quarter and the most frequent text are then scored on more, and the last few on all. Where the
    loss selects, the task's own value decides; where no metric gives that either, it is the most frequent answer.

    Args:
        recipe: the run's.
        split: what is answered.
        majority: the most frequent answer of the training rows, which is tried too: none scores more than ``constant``.
    """
    golds = _golds(recipe, split)
    metric, value = _deciding(recipe)
    if metric is None:
        return _commonest(golds)
    sign = 1.0 if type(metric).higher_is_better else -1.0
    left = _answers(recipe, split, golds)
    always = {left[0], majority}
    left += [majority] if majority is not None and majority not in left else []
    while True:
        generated = recipe.task.kind == "generation" and len(left) > LAST
        step = max(1, len(left) * len(split.examples) // PAIRS) if generated else 1
        examples = split.examples[::step]
        references = [_references(e) for e in examples]
        rank: dict[str, float] = {}
        for each in left:
            says = _always(recipe, each)
            found = float(metric.score([says(e) for e in examples], references, examples)[value])
            rank[each] = -sign * round(found, 12) if math.isfinite(found) else math.inf
        ranked = sorted(left, key=rank.__getitem__)  # equal ones stay in their order
        if step == 1:
            return ranked[0]
        kept = {*always, *ranked[: len(left) // 4]}
        left = [each for each in left if each in kept]


def _deciding(recipe: Recipe) -> tuple[Metric | None, str]:
    """The metric that decides which constant answer is best, and the name of its value; None if there is none."""
    for value in (recipe.selects, type(recipe.task).selects):
        for metric in recipe.metric:
            if metric.reads == "prediction" and value in metric.value_names:
                return metric, value
    return None, ""


def _answers(recipe: Recipe, split: EvaluationSplit, golds: Mapping[str, int]) -> list[str]:
    """The answers to try, the most frequent first; which of equally frequent ones are left out depends on a hash."""
    known = recipe.task.labels
    if recipe.task.kind == "multiple_choice":
        known = tuple(map(str, range(max(len(e.candidates) for e in split.examples))))
    number = dict.fromkeys(known, 0) | dict(golds)
    tried = sorted(number, key=lambda each: (-number[each], source_key(each)))[:MOST]
    return sorted(tried, key=lambda each: (-number[each], each))


def refuse_what_none_has_to_read(recipe: Recipe, data: Data) -> None:
    """Refuses data on which one and the same answer is always right.

    Raises:
        RunError: it is in a split of ten rows or more: no score on it would say that anything was learnt.
    """
    for split in data.selected:
        gold = _always_right(recipe, split)
        if len(split.examples) >= FEW and gold is not None:
            if recipe.task.kind == "multiple_choice":
                what = f"choice {int(gold) + 1} is right"
                remedy = "put the choices into another order in each row (multiple_choice has shuffle_choices = true)"
            else:
                what, remedy = f"the answer is {gold!r}", "take rows of every answer"
            raise RunError(
                f"task: in every row of {split.name} {what}, so that a model that reads nothing scores 1; {remedy}"
            )


def _always_right(recipe: Recipe, split: EvaluationSplit) -> str | None:
    """The answer that is right in every row, texts but for case and blanks; None if there is none."""
    if recipe.task.kind == "generation":
        rows = [{normalised(text): text for text in _references(e)} for e in split.examples]
    else:
        rows = [{answer(e, recipe.task): answer(e, recipe.task)} for e in split.examples]
    return next((text for key, text in rows[0].items() if all(key in row for row in rows)), None)


def _golds(recipe: Recipe, split: EvaluationSplit) -> Counter[str]:
    return Counter(answer(e, recipe.task) for e in split.examples)


def _commonest(golds: Mapping[str, int]) -> str:
    return min(golds, key=lambda gold: (-golds[gold], gold))


def _always(recipe: Recipe, gold: str) -> Callable[[Example], str]:
    if recipe.task.kind == "multiple_choice":
        return lambda example: example.candidates[min(int(gold), len(example.candidates) - 1)]
    return lambda _: gold


def _drawn(recipe: Recipe, split: EvaluationSplit, golds: Sequence[str]) -> dict[str, float]:
    rng = random.Random(f"{recipe.run.seed}/{split.name}")  # noqa: S311 - a baseline, no secret
    number = 1 if recipe.task.kind == "generation" else DRAWS
    draws = [_scored(recipe, split, lambda e: rng.choice(e.candidates or golds)) for _ in range(number)]
    return {key: sum(draw[key] for draw in draws) / number for key in draws[0]}


def _scored(recipe: Recipe, split: EvaluationSplit, says: Callable[[Example], str]) -> dict[str, float]:
    predictions = [says(example) for example in split.examples]
    references = [_references(e) for e in split.examples]
    values: dict[str, float] = {}
    for metric in recipe.metric:
        if metric.reads == "prediction":
            values |= {k: float(v) for k, v in metric.compute(predictions, references, split.examples).items()}
    return values


def _references(example: Example) -> list[str]:
    return list(example.references or (example.target,))
