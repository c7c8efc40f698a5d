"""Metrics of generated text against reference texts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import ClassVar, Literal

from pydantic import Field

from peftkit.components import Example, TaskKind
from peftkit.metrics.base import EvaluateMetric, mean, normalised


class ExactMatch(EvaluateMetric):
    """The share of predictions that equal one of their references, letter by letter (Rajpurkar et al., 2016).

    White space at the ends, and how much there is between words, never counts.
    """

    name: Literal["exact_match"] = "exact_match"
    per_example: ClassVar[bool] = True

    ignore_case: bool = False
    """Take upper and lower case for the same."""
    ignore_punctuation: bool = False
    """Drop punctuation before comparing."""

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The share as ``exact_match``."""
        pairs = zip(predictions, references, strict=True)
        return {self.name: mean([self._key(p) in {self._key(text) for text in right} for p, right in pairs])}

    def _key(self, text: str) -> str:
        return normalised(text, ignore_case=self.ignore_case, ignore_punctuation=self.ignore_punctuation)


class Bleu(EvaluateMetric):
    """BLEU over all predictions together, by sacrebleu, from 0 to 100 (Papineni et al., 2002; Post, 2018).

    The options are sacrebleu's, and so are their defaults. Examples may have different numbers of references. Where
    no prediction has as many as ``max_ngram_order`` tokens BLEU is 0, however right they are, unless
    ``effective_order`` is set. ``bleu1`` to ``bleu4`` are BLEU with n-grams up to 1, 2, 3 and 4.
    """

    name: Literal["bleu"] = "bleu"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation",)
    values: ClassVar[tuple[str, ...]] = ("bleu", "bleu1", "bleu2", "bleu3", "bleu4")

    tokenize: Literal["13a", "intl", "char", "zh", "none"] = "13a"
    """How texts are cut into tokens: ``13a`` as in WMT's script, ``intl`` with Unicode's classes of characters,
    ``char`` into characters, ``zh`` for Chinese, ``none`` at white space."""
    lowercase: bool = False
    """Take upper and lower case for the same."""
    smooth_method: Literal["exp", "floor", "add-k", "none"] = "exp"
    """What stands in for n-grams without any match (Chen and Cherry, 2014)."""
    max_ngram_order: int = Field(default=4, ge=1)
    """The length of the longest n-grams that count."""
    effective_order: bool = False
    """Leave out n-grams longer than any prediction, for texts of a few words."""

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The scores of the corpus as ``bleu`` and ``bleu1`` to ``bleu4``."""
        from sacrebleu.metrics.bleu import BLEU

        def up_to(order: int) -> float:
            bleu = BLEU(
                lowercase=self.lowercase,
                tokenize=self.tokenize,
                smooth_method=self.smooth_method,
                max_ngram_order=order,
                effective_order=self.effective_order,
            )
            return float(bleu.corpus_score(list(predictions), by_number(references)).score)

        scores = {order: up_to(order) for order in {1, 2, 3, 4, self.max_ngram_order}}
        return {self.name: scores[self.max_ngram_order]} | {f"bleu{order}": scores[order] for order in (1, 2, 3, 4)}


class Chrf(EvaluateMetric):
    """chrF over all predictions together, by sacrebleu, from 0 to 100 (Popović, 2015; Post, 2018).

    The F-score of character n-grams, and of word n-grams where ``word_order`` is above 0: chrF++ at 2 (Popović, 2017).
    """

    name: Literal["chrf"] = "chrf"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation",)

    char_order: int = Field(default=6, ge=1)
    """The length of the longest n-grams of characters that count."""
    word_order: int = Field(default=0, ge=0)
    """The length of the longest n-grams of words that count; 2 for chrF++."""
    beta: int = Field(default=2, ge=1)
    """How many times as much as precision recall counts."""
    lowercase: bool = False
    """Take upper and lower case for the same."""

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The score of the corpus as ``chrf``."""
        from sacrebleu.metrics.chrf import CHRF

        chrf = CHRF(char_order=self.char_order, word_order=self.word_order, beta=self.beta, lowercase=self.lowercase)
        return {self.name: float(chrf.corpus_score(list(predictions), by_number(references)).score)}


class Distinct(EvaluateMetric):
    """The share of distinct n-grams of words among all n-grams of all predictions (Li et al., 2016).

    Near 0 where a model says the same of everything. Words are what white space parts, whatever their case; where
    there is no n-gram at all the share is 0.
    """

    name: Literal["distinct"] = "distinct"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation",)
    values: ClassVar[tuple[str, ...]] = ("distinct1", "distinct2", "distinct3")

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The shares as ``distinct1``, ``distinct2`` and ``distinct3``."""
        words = [normalised(text).split() for text in predictions]
        return {f"distinct{order}": _distinct(words, order) for order in (1, 2, 3)}


def _distinct(texts: Sequence[Sequence[str]], order: int) -> float:
    grams = [tuple(words[i : i + order]) for words in texts for i in range(len(words) - order + 1)]
    return len({*grams}) / len(grams) if grams else 0.0


def by_number(references: Sequence[Sequence[str]]) -> list[tuple[str | None, ...]]:
    """The first references of all examples, then all the second ones, as sacrebleu wants them; None for none."""
    return list(zip_longest(*references))


class Rouge(EvaluateMetric):
    """The F1 of common words, pairs of words and longest common sub-sequences, by rouge-score (Lin, 2004).

    Each value is the mean over the examples, of each the best over its references. ``rougeLsum`` takes lines for
    sentences. Only the letters a to z and digits make words, so that other scripts score 0.
    """

    name: Literal["rouge"] = "rouge"
    per_example: ClassVar[bool] = True
    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation",)
    values: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL", "rougeLsum")

    use_stemmer: bool = False
    """Compare words without their English endings (Porter, 1980)."""

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The means as ``rouge1``, ``rouge2``, ``rougeL`` and ``rougeLsum``."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(self.values), use_stemmer=self.use_stemmer)
        scores = [scorer.score_multi(right, p) for p, right in zip(predictions, references, strict=True)]
        return {key: mean([float(score[key].fmeasure) for score in scores]) for key in self.values}
