"""A score is earned by reading the input: nothing else moves it."""

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
from peftkit.errors import RunError
from peftkit.runner.data import EvaluationSplit
from peftkit.runner.evaluation import best, direction, evaluate
from peftkit.runner.forms import Form, Row, Scores
from peftkit.runner.models import load_base
from tests.runner.conftest import Make


class Deaf(Form):
    """Scores each candidate by its own text and never by the source: what a model that does not read can do."""

    seed = 0

    def encode(self, examples: Sequence[Example], *, ranked: bool) -> list[Row]:
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

    def score(self, model: torch.nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        taste = [[-random.Random(f"{self.seed}/{bytes(c)!r}").random() for c in r["candidates"]] for r in rows]
        return Scores(taste, [[1] * len(r["candidates"]) for r in rows])


@pytest.mark.parametrize("distractors", ["far", "sisters"])
def test_not_reading_is_worth_exactly_a_fifth_on_the_built_in_choices(distractors: str, make: Make) -> None:
    recipe = make("decoder", "task.name=wordnet_mcq", f"task.distractors={distractors}")
    form = Deaf(None, None, "multiple_choice", 64, 16)  # type: ignore[arg-type]
    for name in ("dev", "test"):
        examples = [recipe.task.encode(row) for row in recipe.task.load()[name]]
        split = EvaluationSplit(name, list(range(len(examples))), examples, form.encode(examples, ranked=True))
        result = evaluate(torch.nn.Linear(1, 1), split, recipe, form, Accelerator(cpu=True))
        assert result.values["accuracy"] == pytest.approx(0.2, abs=1e-12)


@pytest.mark.parametrize("task", ["colours", "colour_choice"])
@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_the_order_of_the_labels_does_not_change_a_score(kind: str, task: str, make: Make) -> None:
    recipe = make(kind, f"task.name={task}")
    base = load_base(recipe)
    examples = [recipe.task.encode(row) for row in recipe.task.load()["test"]]
    turned = [replace(e, candidates=e.candidates[::-1]) for e in examples]
    values = []
    for each in (examples, turned):
        split = EvaluationSplit("test", list(range(len(each))), each, base.form.encode(each, ranked=True))
        values.append(evaluate(base.model, split, recipe, base.form, Accelerator(cpu=True)))
    assert [p["prediction"] for p in values[0].predictions] == [p["prediction"] for p in values[1].predictions]
    assert values[0].values == pytest.approx(values[1].values, abs=1e-5)


@given(st.lists(st.tuples(st.text(), st.floats(allow_infinity=False)), min_size=1, max_size=8), st.randoms())
def test_the_best_candidate_does_not_depend_on_the_order(pairs: list[tuple[str, float]], rng: random.Random) -> None:
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    assert best(*zip(*pairs, strict=True)) == best(*zip(*shuffled, strict=True))


def test_nan_never_wins() -> None:
    assert best(["a", "b"], [math.nan, -5.0]) == "b"


def test_a_task_that_no_metric_selects_for_is_an_error(make: Make) -> None:
    recipe = make("decoder").model_copy(update={"metric": ()})
    with pytest.raises(RunError, match="selected by 'accuracy'"):
        direction(recipe, {"loss": 1.0, "f1_macro": 0.5})


@pytest.mark.parametrize(
    ("selects", "metrics", "expected"),
    [
        ("loss", (), ("loss", False)),
        ("f1_macro", ("f1_macro",), ("f1_macro", True)),
        ("answer_leakage", ("distractor_match", "answer_leakage"), ("answer_leakage", False)),
    ],
)
def test_a_recipe_may_say_what_selects(
    selects: str, metrics: tuple[str, ...], expected: tuple[str, bool], make: Make
) -> None:
    tasks = {"answer_leakage": "wordnet_distractors"}
    told = ", ".join(f'{{name = "{name}"}}' for name in metrics or ("accuracy",))
    recipe = make(
        "decoder", f"task.name={tasks.get(selects, 'wordnet_topic')}", f"metric=[{told}]", f"evaluate.selects={selects}"
    )
    assert direction(recipe, {"loss": 1.0, "f1_macro": 0.5, "answer_leakage": 0.1}) == expected
