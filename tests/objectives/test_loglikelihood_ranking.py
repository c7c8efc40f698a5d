"""What an answer is for each kind of task, and how candidates are ranked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from peftkit import Example, Objective
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import CandidateScores, ObjectiveSettings
from peftkit.objectives import ChoiceRanking, ClassificationHead, LabelRanking, MultipleChoiceHead
from tests.tiny_runs import ColourChoice, Colours

CHOOSING: tuple[Objective, ...] = (ChoiceRanking(), MultipleChoiceHead())
CLASSIFYING: tuple[Objective, ...] = (LabelRanking(), ClassificationHead())
EXAMPLE = Example("x", "green", ("red", "green"))


@pytest.mark.parametrize("objective", CHOOSING, ids=lambda each: each.name)
def test_the_answer_of_multiple_choice_is_a_position(objective: Objective) -> None:
    assert objective.answer(EXAMPLE) == "1"
    assert objective.answer_text("0", EXAMPLE) == "red"
    assert objective.answer_text("1", EXAMPLE) == "green"
    assert objective.answer_text("4", EXAMPLE) == "green", "the last one"
    longer = Example("y", "c", ("a", "b", "c"))
    assert list(objective.possible_answers(ColourChoice(), [EXAMPLE, longer, EXAMPLE])) == ["0", "1", "2"]
    problem, remedy = objective.describe_constant_answer("1")
    assert problem == "choice 2 is correct"
    assert "shuffle the choices" in remedy


@pytest.mark.parametrize("objective", CLASSIFYING, ids=lambda each: each.name)
def test_the_answer_of_classification_is_a_label(objective: Objective) -> None:
    assert objective.answer(EXAMPLE) == "green"
    assert objective.answer_text("blue", EXAMPLE) == "blue"
    assert list(objective.possible_answers(Colours(), [EXAMPLE])) == ["red", "green", "blue"]
    assert objective.describe_constant_answer("red") == ("the answer is 'red'", "use rows with different answers")


def context(scoring: str) -> ObjectiveContext:
    family: Any = SimpleNamespace(candidate_scorer=lambda model: lambda rows, device: SCORES)
    return ObjectiveContext(family, "decoder", None, None, Colours(), ObjectiveSettings(scoring=scoring))


EXAMPLES = [Example("x", "green", ("red", "green")), Example("y", "a", ("a", "b", "c"))]
ROWS = [{"answer": 1}, {"answer": 0}]
SCORES = CandidateScores([[-2.0, -3.0], [-1.0, -4.0, -6.0]], [[1, 3], [0, 8, 2]])
"""Of the first row, the sum is highest for red, and the mean per token for green."""


def predict(given: ObjectiveContext, *, has_targets: bool) -> list[dict[str, Any]]:
    return ChoiceRanking().predict(nn.Identity(), ROWS, EXAMPLES, given, has_targets=has_targets)


def test_candidates_are_ranked_by_the_sum_and_by_the_mean() -> None:
    by_sum = predict(context("sum"), has_targets=True)
    assert [(p["prediction"], p["prediction_norm"]) for p in by_sum] == [("red", "green"), ("a", "b")]
    by_mean = predict(context("norm"), has_targets=True)
    assert [(p["prediction"], p["prediction_norm"]) for p in by_mean] == [("green", "red"), ("b", "a")]
    for predictions in (by_sum, by_mean):
        assert [(p["loss"], p["tokens"]) for p in predictions] == [(3.0, 3), (1.0, 0)], "those of the right candidate"
        assert [p["candidates"] for p in predictions] == [["red", "green"], ["a", "b", "c"]]
        assert [p["log_likelihoods"] for p in predictions] == SCORES.loglikelihoods
        assert [p["candidate_tokens"] for p in predictions] == SCORES.num_tokens


def test_predictions_without_answers_have_no_loss() -> None:
    with_answers, without = (predict(context("sum"), has_targets=has) for has in (True, False))
    for one, other in zip(with_answers, without, strict=True):
        assert {key: value for key, value in one.items() if key not in ("loss", "tokens")} == other
