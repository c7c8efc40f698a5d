"""The metric of PEFT-by-time, kept to compare old results with new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from peftkit.components import Example
from peftkit.metrics.base import EvaluateMetric, mean


class TeacherForcedMatch(EvaluateMetric):
    """Accuracy under teacher forcing. It leaks the answer and must not be trusted.

    PEFT-by-time scored the most likely token at each position of the target, given the correct tokens before it. For
    classification, output that is not a label counted as the label ``otherwise``; for multiple choice and generation,
    the output had to equal the target. A model that always outputs "not" scores 1.0 on hate speech: given a hateful
    target, its output is neither label and counts as the other one.
    """

    name: Literal["teacher_forced_match"] = "teacher_forced_match"
    input: ClassVar[Literal["prediction", "teacher_forced"]] = "teacher_forced"

    otherwise: Literal["first", "last"] = "last"
    """The label that output counts as if it is not a label: the first or the last."""

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the accuracy as ``teacher_forced_match``."""
        rows = zip(predictions, references, examples, strict=True)
        return {self.name: mean([float(self._to_label(p, texts, example) in texts) for p, texts, example in rows])}

    def _to_label(self, output: str, references: Sequence[str], example: Example) -> str:
        if output in references or not example.candidates or output in example.candidates:
            return output
        return example.candidates[0 if self.otherwise == "first" else -1]
