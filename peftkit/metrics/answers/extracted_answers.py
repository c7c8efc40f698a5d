"""Metrics of answers that end an explanation: whether they are right, and whether there is one."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from math import comb
from typing import ClassVar, Literal

from pydantic import PositiveInt, field_validator, model_validator

from peftkit.answer_texts.answer_extraction import EXTRACTIONS, Extraction
from peftkit.answer_texts.exact_numbers import are_equal_numbers
from peftkit.components import Example, Metric, TaskKind
from peftkit.components.types import RunSpec
from peftkit.metrics.base import EvaluateMetric, mean, normalize

log = logging.getLogger(__name__)
Equality = Literal["text", "number", "symbolic"]


class _AnswerExtraction(EvaluateMetric):
    """Base class of metrics that extract the answer from a text."""

    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation", "chat")
    is_mean_of_examples: ClassVar[bool] = True

    extract: tuple[Extraction, ...] = ("hash", "boxed", "last_number")
    """Where the answer of a text is, the first that exists: after the last #### (`hash`), in the last \\boxed{…}
    (`boxed`), after "the answer is" (`answer_is`), its `last_number`, or the letter of a choice (`choice_letter`)."""
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


class _AnswerComparison(_AnswerExtraction):
    """Base class of metrics that compare extracted answers."""

    equality: Equality = "number"
    """How answers are compared: as exact numbers, whatever their separators, currency and unit, or else as texts
    (`number`); as texts (`text`); or as numbers and as formulas by math-verify (`symbolic`)."""

    @model_validator(mode="after")
    def _check_library(self) -> _AnswerComparison:
        if self.equality == "symbolic" and importlib.util.find_spec("math_verify") is None:
            raise ValueError("equality: symbolic needs math-verify; install peftkit[math]")
        return self

    def companions(self) -> tuple[Metric, ...]:
        """Return the share of texts without an answer, which is part of what the score means."""
        return (Unextractable(extract=self.extract, pattern=self.pattern),)

    def is_right(self, answer: str | None, references: Sequence[str]) -> bool:
        """Return whether an answer equals that of a reference.

        Args:
            answer: The answer; None if there is none, which is wrong.
            references: The texts of the references; one without an answer to extract is one as a whole.
        """
        if answer is None:
            return False
        return any(self.are_equal(answer, self.extract_answer(text) or text) for text in references)

    def are_equal(self, answer: str, reference: str) -> bool:
        """Return whether two answers are equal.

        Args:
            answer: An answer.
            reference: Another one.
        """
        if normalize(answer) == normalize(reference):
            return True
        if self.equality == "text":
            return False
        return are_equal_numbers(answer, reference) or (
            self.equality == "symbolic" and _are_equal_formulas(answer, reference)
        )


class ExtractedMatch(_AnswerComparison):
    """The share of predictions whose extracted answer equals that of a reference.

    A reference without an answer to extract is one as a whole, and a warning counts them. A prediction without one is
    wrong.
    """

    name: Literal["extracted_match"] = "extracted_match"

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share as ``extracted_match``."""
        without = sum(any(self.extract_answer(text) is None for text in right) for right in references)
        if len(predictions) > 1 and without:  # scores of single examples are computed too
            _warn_of_references(self.name, without, len(predictions))
        pairs = zip(predictions, references, strict=True)
        return {self.name: mean([float(self.is_right(self.extract_answer(text), right)) for text, right in pairs])}


class _SampledAnswers(_AnswerComparison):
    """Base class of metrics that score the samples of an example together."""

    input: ClassVar[str] = "samples"

    k: PositiveInt | tuple[PositiveInt, ...] = 1
    """Number of samples, or a list of several numbers; at most `evaluate.num_return_sequences`."""

    @field_validator("k")
    @classmethod
    def _check_k(cls, k: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if k == ():
            raise ValueError("must not be empty")
        return k

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of samples."""
        return (self.k,) if isinstance(self.k, int) else tuple(dict.fromkeys(self.k))

    def incompatible_with(self, spec: RunSpec) -> list[str]:
        """Return why there are too few samples."""
        samples, largest = spec.num_return_sequences, max(self.numbers)
        few = [f"k = {largest} needs as many samples; set evaluate.num_return_sequences = {largest}, or lower k"]
        return [*super().incompatible_with(spec), *(few if largest > samples else [])]

    def _compute(
        self, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the means of the scores of each example.

        Args:
            predictions: The samples of each example.
            references: The texts of the references.
            examples: The examples.
        """
        answers = [[*map(self.extract_answer, samples)] for samples in predictions]
        return {
            name: mean([self.score(each, right, k) for each, right in zip(answers, references, strict=True)])
            for name, k in zip(self.value_names, self.numbers, strict=True)
        }

    def score(self, answers: Sequence[str | None], references: Sequence[str], k: int) -> float:
        """Return the score of the samples of an example.

        Args:
            answers: The extracted answer of each sample.
            references: The texts of the references.
            k: The number of samples that are scored.
        """
        raise NotImplementedError


class MajorityAtK(_SampledAnswers):
    """The share of examples whose most frequent answer among the first k samples is right.

    This is self-consistency (Wang et al., 2023). Equal answers vote together, samples without an answer do not vote,
    and of equally frequent answers the one sampled first wins.
    """

    name: Literal["maj_at_k"] = "maj_at_k"

    @property
    def value_names(self) -> tuple[str, ...]:
        """``maj@`` with each number of samples."""
        return tuple(f"maj@{k}" for k in self.numbers)

    def score(self, answers: Sequence[str | None], references: Sequence[str], k: int) -> float:
        """Return whether the winner is right."""
        votes: dict[str, int] = {}
        for answer in answers[:k]:
            if answer is not None:
                first = next((each for each in votes if self.are_equal(answer, each)), answer)
                votes[first] = votes.get(first, 0) + 1
        winner = max(votes, key=votes.__getitem__, default=None)  # the first of the most frequent
        return float(self.is_right(winner, references))


class PassAtK(_SampledAnswers):
    """The probability that one of k samples is right, estimated from all samples.

    The estimator is the unbiased one of Chen et al., 2021, "Evaluating Large Language Models Trained on Code".
    """

    name: Literal["pass_at_k"] = "pass_at_k"

    @property
    def value_names(self) -> tuple[str, ...]:
        """``pass@`` with each number of samples."""
        return tuple(f"pass@{k}" for k in self.numbers)

    def score(self, answers: Sequence[str | None], references: Sequence[str], k: int) -> float:
        """Return one minus the probability that ``k`` of the samples, drawn without replacement, are all wrong."""
        wrong = sum(not self.is_right(answer, references) for answer in answers)
        return 1 - comb(wrong, k) / comb(len(answers), k)


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
