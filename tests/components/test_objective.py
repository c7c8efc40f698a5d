"""The defaults of objectives, and what they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch

from peftkit import Example, Objective, ObjectiveContext
from peftkit.components.types import CandidateScores, ObjectiveSettings
from peftkit.testing.run_checks import Colours


class Bare(Objective):
    """An objective with all defaults."""

    name: Literal["bare"] = "bare"
    task_kind = "brightness"
    families = ("decoder",)


class Services:
    """Services that record their calls."""

    def __init__(self) -> None:
        self.scorers, self.devices = 0, list[Any]()

    def candidate_scorer(self, model: Any) -> Any:
        self.scorers += 1

        def score(rows: Sequence[Any], device: Any) -> CandidateScores:
            self.devices.append(device)
            return CandidateScores([[-1.0]] * len(rows), [[1]] * len(rows))

        return score

    def collate(self, rows: Sequence[Any]) -> dict[str, torch.Tensor]:
        return {"labels": torch.tensor([row["label"] for row in rows])}

    def cross_entropy(self, model: Any, batch: Any) -> torch.Tensor:
        return batch["labels"].float().sum()  # type: ignore[no-any-return]


@pytest.fixture
def services() -> Services:
    return Services()


@pytest.fixture
def context(services: Services) -> ObjectiveContext:
    family: Any = services
    return ObjectiveContext(family, "decoder", None, None, Colours(), ObjectiveSettings(max_new_tokens=5))


def test_the_answer_is_the_target() -> None:
    example = Example("x", "3", ("2", "3"))
    assert Bare().answer(example) == Bare().answer_text("3", example) == "3"
    assert Bare().possible_answers(Colours(), [example]) == ()
    assert Bare().describe_constant_answer("3")[0] == "the answer is '3'"


@pytest.mark.parametrize(
    ("counts", "expected"), [({"b": 2, "a": 1}, "b"), ({"b": 2, "a": 2, "c": 2}, "a"), ({"z": 1}, "z")]
)
def test_the_typical_answer_is_the_most_frequent_and_then_the_first(counts: dict[str, int], expected: str) -> None:
    assert Bare().typical_answer(counts) == expected
    assert Bare().typical_answer(dict(reversed(counts.items()))) == expected


def test_an_objective_trains_the_language_modeling_head_on_cross_entropy(context: ObjectiveContext) -> None:
    objective, model = Bare(), torch.nn.Identity()
    assert objective.head(Colours()) is None
    batch = objective.collate([{"label": [4, -100, 6]}, {"label": [-100, -100, 2]}], context)
    assert objective.num_targets(batch, context).item() == 3
    assert objective.loss(model, batch, context).item() == 4 + 6 + 2 - 300
    assert objective.teacher_force(model, [], [], context) == []
    assert objective.count_unknown_targets([{}], context) == 0


def test_candidates_are_scored_by_one_scorer_per_evaluation(context: ObjectiveContext, services: Services) -> None:
    model, other = torch.nn.Identity(), torch.device("meta")
    evaluation = context.for_evaluation(torch.device("cpu"))
    for size in (2, 3):
        assert len(evaluation.score_candidates(model, [{}] * size).loglikelihoods) == size
    assert services.scorers == 1
    later = evaluation.for_evaluation(other)
    later.score_candidates(model, [{}])
    assert services.scorers == 2
    assert services.devices == [torch.device("cpu")] * 2 + [other]
    assert (later.settings, later.task, later.model_kind) == (context.settings, context.task, "decoder")
    assert context.cache == {}
