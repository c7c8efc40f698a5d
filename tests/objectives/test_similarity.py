"""Vectors of scored pairs: losses as in sentence-transformers, predictions, baselines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from peftkit import Example
from peftkit.objectives import SimilarityEmbedding
from peftkit.testing import check_objective
from tests.tiny_runs import ColourSimilarity

COSENT = SimilarityEmbedding(loss_function="cosent")
NONE: Any = None


@pytest.mark.parametrize("objective", [SimilarityEmbedding(), COSENT], ids=lambda each: each.loss_function)
def test_objectives_conform(objective: SimilarityEmbedding, tmp_path: Path) -> None:
    check_objective(objective, ColourSimilarity(), tmp_path, runs=False)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("objective", [SimilarityEmbedding(), COSENT], ids=lambda each: each.loss_function)
def test_whole_runs_conform(objective: SimilarityEmbedding, tmp_path: Path) -> None:
    check_objective(objective, ColourSimilarity(), tmp_path)


def pairs() -> tuple[torch.Tensor, dict[str, torch.Tensor], list[float]]:
    torch.manual_seed(0)
    outputs = torch.nn.functional.normalize(torch.randn(10, 4, dtype=torch.float64), dim=-1)
    scores = torch.tensor([0.1, 0.9, 0.5, 0.5, -0.2], dtype=torch.float64)
    cosines = [float(outputs[i] @ outputs[i + 1]) for i in range(0, 10, 2)]
    return outputs, {"labels": scores, "choices": torch.full((5,), 2)}, cosines


def test_cosine_similarity_is_the_squared_error() -> None:
    outputs, batch, cosines = pairs()
    loss = SimilarityEmbedding().loss_of_outputs(outputs, batch, NONE, range(1, 4))
    scores = batch["labels"].tolist()
    assert loss.item() == pytest.approx(sum((cosines[i] - scores[i]) ** 2 for i in (1, 2, 3)))


def test_cosent_is_the_order_of_all_pairs() -> None:
    """The formula of https://kexue.fm/archives/8847; once for the step, times the number of pairs."""
    outputs, batch, cosines = pairs()
    scores = batch["labels"].tolist()
    terms = [math.exp(7 * (cosines[j] - cosines[i])) for i in range(5) for j in range(5) if scores[i] > scores[j]]
    objective = SimilarityEmbedding(loss_function="cosent", scale=7)
    parts = [objective.loss_of_outputs(outputs, batch, NONE, range(a, b)) for a, b in ((0, 2), (2, 5))]
    assert sum(parts).item() == pytest.approx(5 * math.log1p(sum(terms)))  # type: ignore[union-attr]


def test_equal_scores_have_no_order() -> None:
    outputs, batch, _ = pairs()
    equal = {**batch, "labels": torch.ones(5, dtype=torch.float64)}
    assert COSENT.loss_of_outputs(outputs.requires_grad_(), equal, NONE, range(5)).item() == 0


def test_answers_of_baselines_are_scores() -> None:
    examples = [Example("x", score) for score in ("0.0", "0.5", "1.0", "0.9")]
    assert SimilarityEmbedding().possible_answers(ColourSimilarity(), examples) == ("0.6", "0.7")
    problem, remedy = SimilarityEmbedding().describe_constant_answer("1")
    assert problem == "the target is 1"
    assert "different targets" in remedy
