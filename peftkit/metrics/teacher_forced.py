"""The score of the system that peftkit started from, kept so that old numbers can be told from new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from peftkit.components import Example
from peftkit.metrics.base import EvaluateMetric, mean


class TeacherForcedMatch(EvaluateMetric):
    """The accuracy of what a model says while it is fed the right answer. It leaks that answer: never believe it.

    PEFT-by-time scored the likeliest token at each place of the target with the decoder given the target's true
    beginning. For labels it looked which label's text came out, and took ``otherwise`` where none did; for choices and
    free text it asked whether the target itself came out. A model that always says "not" so scores 1.0 on hate
    speech: fed a hateful target it says what is neither label, and is given the other one.
    """

    name: Literal["teacher_forced_match"] = "teacher_forced_match"
    reads: ClassVar[Literal["prediction", "teacher_forced"]] = "teacher_forced"

    otherwise: Literal["first", "last"] = "last"
    """The label that is taken where no label's text came out: the first of them, or the last."""

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The share as ``teacher_forced_match``."""
        pairs = zip(predictions, references, examples, strict=True)
        return {self.name: mean([float(self._taken(p, right, e) in right) for p, right, e in pairs])}

    def _taken(self, said: str, right: Sequence[str], example: Example) -> str:
        if said in right or not example.candidates:
            return said
        return example.candidates[0 if self.otherwise == "first" else -1] if said not in example.candidates else said
