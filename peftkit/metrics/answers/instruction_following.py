"""Metrics of instructions that a program can verify."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar, Literal

from peftkit.answer_texts.verifiable_instructions import (
    INSTRUCTIONS_KEY,
    detects_languages,
    follows,
    loose_versions,
)
from peftkit.components import Example, TaskKind
from peftkit.components.types import RunSpec
from peftkit.metrics.base import EvaluateMetric


class InstructionFollowing(EvaluateMetric):
    """The accuracies of IFEval (Zhou et al., 2023), of prompts and of single instructions.

    That of prompts is the share of prompts all of whose instructions are followed. A loose accuracy also accepts a text
    that follows an instruction without its first or last line, or without asterisks.
    """

    name: Literal["instruction_following"] = "instruction_following"

    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation", "chat")
    values: ClassVar[tuple[str, ...]] = ("prompt_strict", "instruction_strict", "prompt_loose", "instruction_loose")
    is_mean_of_examples: ClassVar[bool] = True

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return what is not installed."""
        missing = [] if detects_languages() else ["it needs langdetect; install peftkit[ifeval]"]
        return [*super().incompatible_with(spec), *missing]

    def applies_to(self, examples: Sequence[Example]) -> bool:
        """Return whether the examples have instructions."""
        return any(INSTRUCTIONS_KEY in example.extra for example in examples)

    def compute_per_example(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> list[dict[str, float]]:
        """Score every example; the scores of instructions are pseudo-values of the ratio, whose mean it is.

        Args:
            predictions: The texts.
            references: Not used.
            examples: The examples, with the instructions.

        Returns:
            The four values for each example.
        """
        followed = [_verify(text, example) for text, example in zip(predictions, examples, strict=True)]
        rows: list[dict[str, float]] = [{} for _ in followed]
        number = sum(len(strict) for strict, _ in followed)
        for form, (prompt, instruction) in enumerate((self.values[:2], self.values[2:])):
            share = sum(sum(each[form]) for each in followed) / number
            for row, each in zip(rows, followed, strict=True):
                row[prompt] = float(all(each[form]))
                row[instruction] = share + (sum(each[form]) - share * len(each[form])) * len(followed) / number
        return rows

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the four accuracies."""
        followed = [_verify(text, example) for text, example in zip(predictions, examples, strict=True)]
        values: dict[str, float] = {}
        for form, (prompt, instruction) in enumerate((self.values[:2], self.values[2:])):
            values[prompt] = sum(all(each[form]) for each in followed) / len(followed)
            values[instruction] = sum(sum(each[form]) for each in followed) / sum(len(each[form]) for each in followed)
        return values


def _verify(text: str, example: Example) -> tuple[list[bool], list[bool]]:
    """Return whether a text follows each instruction of its prompt, strictly and loosely."""
    instructions = json.loads(example.extra[INSTRUCTIONS_KEY])
    versions = loose_versions(text)
    strict = [follows(text, each["name"], each["kwargs"]) for each in instructions]
    loose = [any(follows(version, each["name"], each["kwargs"]) for version in versions) for each in instructions]
    return strict, loose
