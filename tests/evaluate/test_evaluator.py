"""Scores of candidates, their order, and the selection metric."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from peftkit.components import Example
from peftkit.data.pipeline import EvaluationSplit
from peftkit.errors import RunError
from peftkit.evaluate.evaluator import argmax_candidate, evaluate, resolve_selection_metric
from peftkit.models import CandidateScores, ModelFamily, TokenizedRow
from peftkit.models.load import load_base
from tests.tiny_runs import Make


class InputBlindModel(ModelFamily):
    """An input-blind model: scores each candidate by its own text and never by the source."""

    seed = 0

    def tokenize(self, examples: Sequence[Example], *, ranked: bool) -> list[TokenizedRow]:
        return [
            {
                "source": [],
                "candidates": [list(c.encode()) for c in e.candidates],
                "answer": e.candidates.index(e.target),
                "source_tokens": 0,
                "target_tokens": 0,
            }
            for e in examples
        ]

    def loglikelihoods(
        self, model: torch.nn.Module, rows: Sequence[TokenizedRow], device: torch.device
    ) -> CandidateScores:
        taste = [[-random.Random(f"{self.seed}/{bytes(c)!r}").random() for c in r["candidates"]] for r in rows]
        return CandidateScores(taste, [[1] * len(r["candidates"]) for r in rows])


@pytest.mark.parametrize("distractors", ["far", "sisters"])
def test_input_blind_models_score_a_fifth_on_the_built_in_choices(distractors: str, make: Make) -> None:
    recipe = make("decoder", "task.name=wordnet_mcq", f"task.distractors={distractors}")
    family = InputBlindModel(None, None, "multiple_choice", 64, 16)  # type: ignore[arg-type]
    for name in ("dev", "test"):
        examples = [recipe.task.to_example(row) for row in recipe.task.load()[name]]
        split = EvaluationSplit(name, list(range(len(examples))), examples, family.tokenize(examples, ranked=True))
        result = evaluate(torch.nn.Linear(1, 1), split, recipe, family, Accelerator(cpu=True))
        assert result.values["accuracy"] == pytest.approx(0.2, abs=1e-12)


@pytest.mark.parametrize("task", ["colours", "colour_choice"])
@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_the_order_of_the_labels_does_not_change_a_score(kind: str, task: str, make: Make) -> None:
    recipe = make(kind, f"task.name={task}")
    base = load_base(recipe)
    examples = [recipe.task.to_example(row) for row in recipe.task.load()["test"]]
    turned = [replace(e, candidates=e.candidates[::-1]) for e in examples]
    values = []
    for each in (examples, turned):
        split = EvaluationSplit("test", list(range(len(each))), each, base.family.tokenize(each, ranked=True))
        values.append(evaluate(base.model, split, recipe, base.family, Accelerator(cpu=True)))
    assert [p["prediction"] for p in values[0].predictions] == [p["prediction"] for p in values[1].predictions]
    assert values[0].values == pytest.approx(values[1].values, abs=1e-5)


@given(st.lists(st.tuples(st.text(), st.floats(allow_infinity=False)), min_size=1, max_size=8), st.randoms())
def test_the_best_candidate_does_not_depend_on_the_order(pairs: list[tuple[str, float]], rng: random.Random) -> None:
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    assert argmax_candidate(*zip(*pairs, strict=True)) == argmax_candidate(*zip(*shuffled, strict=True))


def test_nan_scores_count_as_lowest() -> None:
    assert argmax_candidate(["a", "b"], [math.nan, -5.0]) == "b"


def test_a_recipe_without_the_selection_metric_is_an_error(make: Make) -> None:
    recipe = make("decoder").model_copy(update={"metric": ()})
    with pytest.raises(RunError, match="selected by 'accuracy'"):
        resolve_selection_metric(recipe, {"loss": 1.0, "f1_macro": 0.5})


@pytest.mark.parametrize(
    ("selects", "metrics", "expected"),
    [
        ("loss", (), ("loss", False)),
        ("f1_macro", ("f1_macro",), ("f1_macro", True)),
        ("answer_leakage", ("distractor_match", "answer_leakage"), ("answer_leakage", False)),
    ],
)
def test_a_recipe_may_set_the_selection_metric(
    selects: str, metrics: tuple[str, ...], expected: tuple[str, bool], make: Make
) -> None:
    tasks = {"answer_leakage": "wordnet_distractors"}
    metric_tables = ", ".join(f'{{name = "{name}"}}' for name in metrics or ("accuracy",))
    recipe = make(
        "decoder",
        f"task.name={tasks.get(selects, 'wordnet_topic')}",
        f"metric=[{metric_tables}]",
        f"evaluate.selection_metric={selects}",
    )
    assert resolve_selection_metric(recipe, {"loss": 1.0, "f1_macro": 0.5, "answer_leakage": 0.1}) == expected
