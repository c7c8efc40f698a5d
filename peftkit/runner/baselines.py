"""What can be scored without reading the input: no score of a model means anything beside these."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from peftkit.components import Example
from peftkit.errors import RunError
from peftkit.recipe import Recipe
from peftkit.runner.data import Data, EvaluationSplit
from peftkit.runner.encoding import answer

DRAWS = 5  # of random answers, whose scores are averaged; one where text is generated
FEW = 10  # rows that may be of one answer by chance

Scores = dict[str, dict[str, dict[str, float]]]
"""Baseline → split → the metrics' values."""


def baselines(recipe: Recipe, data: Data) -> Scores:
    """The scores on dev and test of three models that never read.

    ``constant`` always gives the answer that is right most often in the split itself, the best that one answer can do
    in hindsight; ``majority`` the one that is right most often in the training rows; ``random`` draws among the
    labels or choices, or among the training rows' answers where text is generated. The answer of a multiple-choice
    task is the number of a choice. Seeded by the recipe.
    """
    splits = data.selected
    return {
        "constant": {s.name: _scored(recipe, s, _always(recipe, _commonest(_golds(recipe, s)))) for s in splits},
        "majority": {s.name: _scored(recipe, s, _always(recipe, _commonest(data.golds))) for s in splits},
        "random": {s.name: _drawn(recipe, s, sorted(data.golds)) for s in splits},
    }


def refuse_what_none_has_to_read(recipe: Recipe, data: Data, scores: Scores) -> None:
    """Refuses data on which one and the same answer is always right.

    Raises:
        RunError: it is in a split of ten rows or more: no score on it would say that anything was learnt.
    """
    for split in data.selected:
        found = scores["constant"].get(split.name, {})
        if len(split.examples) >= FEW and found.get(type(recipe.task).selects, 0.0) >= 1.0:
            gold = _commonest(_golds(recipe, split))
            if recipe.task.kind == "multiple_choice":
                what = f"choice {int(gold) + 1} is right"
                remedy = "put the choices into another order in each row (multiple_choice has shuffle_choices = true)"
            else:
                what, remedy = f"the answer is {gold!r}", "take rows of every answer"
            raise RunError(
                f"task: in every row of {split.name} {what}, so that a model that reads nothing scores 1; {remedy}"
            )


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
    references = [list(e.references or (e.target,)) for e in split.examples]
    values: dict[str, float] = {}
    for metric in recipe.metric:
        if metric.reads == "prediction":
            values |= {k: float(v) for k, v in metric.compute(predictions, references, split.examples).items()}
    return values
