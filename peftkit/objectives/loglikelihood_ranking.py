"""What an answer is for each built-in kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from peftkit.candidate_choice import argmax_candidate
from peftkit.components import Example, Objective, Prediction, Task
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import Row
from peftkit.example_tables import NORM_SUFFIX

if TYPE_CHECKING:
    from torch import nn


class RankingObjective(Objective):
    """Base class of objectives that choose the candidate with the highest log-likelihood."""

    ranks = True
    scored_values: ClassVar[tuple[str, ...] | None] = ("log_likelihoods",)
    used_settings: ClassVar[tuple[str, ...] | None] = ("scoring", "candidate_end")

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Predict the candidate with the highest log-likelihood, summed over its tokens or per token."""
        scores = context.score_candidates(model, rows)
        predictions: list[Prediction] = []
        for row, example, sums, tokens in zip(rows, examples, scores.loglikelihoods, scores.num_tokens, strict=True):
            norms = [s / max(n, 1) for s, n in zip(sums, tokens, strict=True)]
            first, second = (sums, norms) if context.settings.scoring == "sum" else (norms, sums)
            prediction: Prediction = {}
            if has_targets:
                prediction |= {"loss": -sums[row["answer"]], "tokens": tokens[row["answer"]]}
            predictions.append(
                prediction
                | {
                    "prediction": argmax_candidate(example.candidates, first),
                    f"prediction{NORM_SUFFIX}": argmax_candidate(example.candidates, second),
                    "candidates": list(example.candidates),
                    "log_likelihoods": sums,
                    "candidate_tokens": tokens,
                }
            )
        return predictions


class ClassificationObjective(RankingObjective):
    """Base class of objectives that choose one of the task's labels."""

    task_kind = "classification"

    def possible_answers(self, task: Task, examples: Sequence[Example]) -> Sequence[str]:
        """Return the task's labels."""
        return task.labels


class MultipleChoiceObjective(RankingObjective):
    """Base class of objectives that choose among each example's candidates; the answer is the index of a candidate."""

    task_kind = "multiple_choice"

    def answer(self, example: Example) -> str:
        """Return the index of the right candidate."""
        return str(example.candidates.index(example.target))

    def answer_text(self, answer: str, example: Example) -> str:
        """Return the candidate with an index, or the last one if the example has fewer."""
        return example.candidates[min(int(answer), len(example.candidates) - 1)]

    def possible_answers(self, task: Task, examples: Sequence[Example]) -> Sequence[str]:
        """Return the indices of the candidates."""
        return tuple(map(str, range(max(len(e.candidates) for e in examples))))

    def describe_constant_answer(self, answer: str) -> tuple[str, str]:
        """Describe that the candidates of the same index are right in every row."""
        remedy = "shuffle the choices of each row (multiple_choice has shuffle_choices = true)"
        return f"choice {int(answer) + 1} is correct", remedy
