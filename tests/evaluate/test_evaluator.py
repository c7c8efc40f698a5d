"""Scores of candidates, their order, and the selection metric."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from peftkit.answer_texts.label_sets import label_extra
from peftkit.components import Example
from peftkit.components.objective_context import ObjectiveContext
from peftkit.data.tokenized_split import SplitStatistics, TokenizedSplit, tokenize_examples
from peftkit.errors import RunError
from peftkit.evaluate.evaluator import evaluate, resolve_selection_metric
from peftkit.metrics import MeanAveragePrecision, MultiLabelF1
from peftkit.models import BoundObjective, CandidateScores, ModelFamily, TokenizedRow
from peftkit.models.load_base_model import load_base
from peftkit.objectives import MultiLabelHead
from peftkit.recipe import Recipe
from tests.tiny_runs import Make


class InputBlindModel(ModelFamily):
    """An input-blind model: scores each candidate by its own text and never by the source."""

    seed = 0

    def tokenize_completions(
        self, examples: Sequence[Example], *, ranked: bool, generated: bool = False, join: str = " "
    ) -> list[TokenizedRow]:
        return [
            {
                "source": [],
                "candidates": [list(c.encode()) for c in e.candidates],
                "answer": e.candidates.index(e.target),
                "length": 0,
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


def bind_input_blind_model(recipe: Recipe) -> BoundObjective:
    """The objective of a recipe for a decoder, with an input-blind model."""
    family = InputBlindModel(None, None, 64, 16)  # type: ignore[arg-type]
    context = ObjectiveContext(family, "decoder", None, None, recipe.task)
    return BoundObjective(recipe.objective_for("decoder"), family, context, "AutoModelForCausalLM")


@pytest.mark.parametrize("distractors", ["far", "sisters"])
def test_input_blind_models_score_a_fifth_on_the_built_in_choices(distractors: str, make: Make) -> None:
    recipe = make("decoder", "task.name=wordnet_mcq", f"task.distractors={distractors}")
    objective = bind_input_blind_model(recipe)
    for name in ("dev", "test"):
        examples = [recipe.task.to_example(row) for row in recipe.task.load()[name]]
        split = tokenize_examples(objective, name, examples, range(len(examples)), training=False)
        result = evaluate(torch.nn.Linear(1, 1), split, recipe, objective, Accelerator(cpu=True))
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
        split = tokenize_examples(base.objective, "test", each, range(len(each)), training=False)
        values.append(evaluate(base.model, split, recipe, base.objective, Accelerator(cpu=True)))
    assert [p["prediction"] for p in values[0].predictions] == [p["prediction"] for p in values[1].predictions]
    assert values[0].values == pytest.approx(values[1].values, abs=1e-5)


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


EXTRA = label_extra(("a", "b"), "none")


class Probabilities(MultiLabelHead):
    """Predicts the probabilities in the rows."""

    def predict(self, model: Any, rows: Any, examples: Any, context: Any, *, has_targets: bool) -> Any:
        lines = [{"a": row["a"], "b": row["b"]} for row in rows]
        return [{"prediction": "none", "probabilities": line, "loss": 1.0, "tokens": 2} for line in lines]


def split(name: str, *rows: tuple[float, float, str]) -> TokenizedSplit:
    examples = [Example(name, target, extra=EXTRA) for _, _, target in rows]
    tokenized = [{"a": a, "b": b, "source_tokens": 1} for a, b, _ in rows]
    return TokenizedSplit(name, range(len(rows)), examples, tokenized, SplitStatistics([], [], [], []))


@pytest.fixture
def objective() -> BoundObjective:
    context: Any = SimpleNamespace(for_evaluation=lambda device: None)
    return BoundObjective(Probabilities(), SimpleNamespace(), context, "")  # type: ignore[arg-type]


def recipe(*metrics: Any) -> Any:
    return SimpleNamespace(evaluate=SimpleNamespace(batch_size=2), metric=metrics)


def test_the_threshold_of_dev_is_used_on_test(objective: BoundObjective) -> None:
    model, accelerator = torch.nn.Linear(1, 1), Accelerator(cpu=True)
    metrics = recipe(MultiLabelF1(), MeanAveragePrecision())
    dev = split("dev", (0.2, 0.05, "a"), (0.1, 0.3, "b"), (0.05, 0.0, "none"))
    result = evaluate(model, dev, metrics, objective, accelerator, calibrate=True)
    assert result.calibration == {"thresholds": pytest.approx(0.15), "no_label": "none"}
    assert [p["prediction"] for p in result.predictions] == ["a", "b", "none"]
    assert (result.values["f1_micro"], result.values["mean_average_precision"]) == (1.0, 1.0)
    test = split("test", (0.16, 0.9, "a, b"), (0.14, 0.0, "a"))
    calibrated = objective.with_calibration(result.calibration)
    tested = evaluate(model, test, metrics, calibrated, accelerator)
    assert [p["prediction"] for p in tested.predictions] == ["a, b", "none"]
    assert tested.calibration == {}
    assert [p["prediction"] for p in evaluate(model, test, metrics, objective, accelerator).predictions] == ["none"] * 2


def test_a_metric_of_what_is_not_predicted_is_explained(objective: BoundObjective) -> None:
    class Odd(MeanAveragePrecision):
        input = "offsets"

    with pytest.raises(RunError, match="'mean_average_precision' scores 'offsets', which 'multi_label_head' does not"):
        evaluate(torch.nn.Linear(1, 1), split("dev", (0, 0, "a")), recipe(Odd()), objective, Accelerator(cpu=True))
