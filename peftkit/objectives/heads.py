"""Objectives of encoders with a classification head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from peftkit.components import Example, Head, ModelKind, Task
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import Row
from peftkit.objectives.loglikelihood_ranking import ClassificationObjective, MultipleChoiceObjective


class ClassificationHead(ClassificationObjective):
    """Classification by a head with one output for each label."""

    name: Literal["classification_head"] = "classification_head"

    families: ClassVar[tuple[ModelKind, ...]] = ("encoder",)
    used_settings = ()  # a label has one log-likelihood, and no tokens to divide it by

    def head(self, task: Task) -> Head:
        """Return a head with the task's labels."""
        return Head(len(task.labels), task.labels)

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize the sources; the answer is the index of the label."""
        rows = context.family.tokenize_sources(examples)
        for row, example in zip(rows, examples, strict=True):
            row["answer"] = example.candidates.index(example.target)
        return rows


class MultipleChoiceHead(MultipleChoiceObjective):
    """Multiple choice by a head with one output, which scores each pair of source and candidate."""

    name: Literal["multiple_choice_head"] = "multiple_choice_head"

    families: ClassVar[tuple[ModelKind, ...]] = ("encoder",)
    used_settings = ()

    def head(self, task: Task) -> Head:
        """Return a head with one output."""
        return Head(1, task.labels)

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize each candidate as a pair with its source."""
        return context.family.tokenize_pairs(examples)
