"""Metrics of answers that end an explanation: whether they are right, and whether there is one."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Literal

from pydantic import field_validator, model_validator

from peftkit.answer_texts.extraction import EXTRACTIONS, Extraction, parse_exact_number
from peftkit.components import Example, TaskKind
from peftkit.metrics.base import EvaluateMetric, mean, normalize

log = logging.getLogger(__name__)
Equality = Literal["text", "number", "symbolic"]


class _AnswerExtraction(EvaluateMetric):
    """Base class of metrics that extract the answer from a text."""

    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation", "chat")
    is_mean_of_examples: ClassVar[bool] = True

    extract: tuple[Extraction, ...] = ("hash", "boxed", "last_number")
    """Where the answer of a text is, the first that exists: after the last #### (`hash`), in the last \\boxed{…}
    (`boxed`), its `last_number`, or the letter of a choice (`choice_letter`)."""
    pattern: str | None = None
    """A regular expression whose last match is the answer, or its group if it has one; instead of `extract`."""

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        try:
            compiled = re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        if compiled.groups > 1:
            raise ValueError(f"has {compiled.groups} groups; at most one is allowed, others start with (?:")
        return pattern

    @field_validator("extract")
    @classmethod
    def _check_extract(cls, extract: tuple[Extraction, ...]) -> tuple[Extraction, ...]:
        if not extract:
            raise ValueError("must not be empty")
        return extract

    @model_validator(mode="after")
    def _check_effects(self) -> _AnswerExtraction:
        if self.pattern is not None and self.extract != type(self).model_fields["extract"].default:
            raise ValueError("extract: has no effect, because pattern finds the answer; remove one of them")
        return self

    def extract_answer(self, text: str) -> str | None:
        """Return the answer of a text; None if it has none."""
        if self.pattern is not None:
            matches = [*re.finditer(self.pattern, text)]
            return (matches[-1][matches[-1].re.groups] or "").strip() or None if matches else None
        answers = (EXTRACTIONS[name](text) for name in self.extract)
        return next((answer for answer in answers if answer), None)


class ExtractedMatch(_AnswerExtraction):
    """The share of predictions whose extracted answer equals that of a reference.

    A reference without an answer to extract is one as a whole, and a warning counts them. A prediction without one is
    wrong.
    """

    name: Literal["extracted_match"] = "extracted_match"

    equality: Equality = "number"
    """How answers are compared: as exact numbers, with thousands separators, currency and percent signs removed, or
    else as texts (`number`); as texts (`text`); or as formulas by math-verify (`symbolic`)."""

    @model_validator(mode="after")
    def _check_library(self) -> ExtractedMatch:
        if self.equality == "symbolic" and importlib.util.find_spec("math_verify") is None:
            raise ValueError("equality: symbolic needs math-verify; install peftkit[math]")
        return self

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share as ``extracted_match``."""
        scores, without = [], 0
        for prediction, texts in zip(predictions, references, strict=True):
            answer, extracted = self.extract_answer(prediction), [self.extract_answer(text) for text in texts]
            without += None in extracted
            right = [each or text for each, text in zip(extracted, texts, strict=True)]
            scores.append(float(answer is not None and any(self._are_equal(answer, each) for each in right)))
        if len(predictions) > 1 and without:  # scores of single examples are computed too
            _warn_of_references(self.name, without, len(predictions))
        return {self.name: mean(scores)}

    def _are_equal(self, answer: str, reference: str) -> bool:
        if normalize(answer) == normalize(reference):
            return True
        if self.equality == "number":
            numbers = parse_exact_number(answer), parse_exact_number(reference)
            return numbers[0] is not None and numbers[0] == numbers[1]
        return self.equality == "symbolic" and _are_equal_formulas(answer, reference)


class Unextractable(_AnswerExtraction):
    """The share of predictions without an answer to extract."""

    name: Literal["unextractable"] = "unextractable"
    higher_is_better: ClassVar[bool] = False

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share as ``unextractable``."""
        return {self.name: mean([float(self.extract_answer(text) is None) for text in predictions])}


@lru_cache(maxsize=64)  # once for each number, instead of at every evaluation
def _warn_of_references(name: str, without: int, number: int) -> None:
    text = "%s: %s of %s rows have a reference without an answer to extract, which is compared as a whole"
    log.warning(f"{text}; set extract or pattern to what finds it", name, f"{without:,}", f"{number:,}")


def _are_equal_formulas(answer: str, reference: str) -> bool:
    """Return whether math-verify finds two formulas equal; its time-outs need a main thread, so they are off."""
    from math_verify import parse, verify

    formulas = [parse(f"${text}$", parsing_timeout=None) for text in (reference, answer)]
    return bool(verify(*formulas, timeout_seconds=None))
