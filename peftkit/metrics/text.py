"""Metrics that compare generated texts with reference texts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import ClassVar, Literal

from pydantic import Field

from peftkit.components import Example, TaskKind
from peftkit.metrics.base import EvaluateMetric, mean, normalize


class ExactMatch(EvaluateMetric):
    """The share of predictions that exactly equal one of their references (Rajpurkar et al., 2016).

    Leading and trailing whitespace, and the amount of whitespace between words, are ignored.
    """

    name: Literal["exact_match"] = "exact_match"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification", "multiple_choice", "generation", "chat")
    is_mean_of_examples: ClassVar[bool] = True

    ignore_case: bool = False
    """Ignore case."""
    ignore_punctuation: bool = False
    """Ignore punctuation."""

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share as ``exact_match``."""
        pairs = zip(predictions, references, strict=True)
        return {self.name: mean([self._normalize(p) in {*map(self._normalize, texts)} for p, texts in pairs])}

    def _normalize(self, text: str) -> str:
        return normalize(text, ignore_case=self.ignore_case, ignore_punctuation=self.ignore_punctuation)


class Bleu(EvaluateMetric):
    """Corpus BLEU by sacrebleu, from 0 to 100 (Papineni et al., 2002; Post, 2018).

    Options and defaults are sacrebleu's. Examples may have different numbers of references. If all predictions are
    shorter than ``max_ngram_order`` tokens, BLEU is 0 even if they are correct, unless ``effective_order`` is set.
    ``bleu1`` to ``bleu4`` are BLEU with n-grams of up to 1, 2, 3 and 4 tokens.
    """

    name: Literal["bleu"] = "bleu"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation", "chat")
    values: ClassVar[tuple[str, ...]] = ("bleu", "bleu1", "bleu2", "bleu3", "bleu4")

    tokenize: Literal["13a", "intl", "char", "zh", "none"] = "13a"
    """Tokenization: ``13a`` as in WMT's mteval script, ``intl`` by Unicode character classes, ``char`` into
    characters, ``zh`` for Chinese, ``none`` at whitespace."""
    lowercase: bool = False
    """Ignore case."""
    smooth_method: Literal["exp", "floor", "add-k", "none"] = "exp"
    """Smoothing of n-gram orders without matches (Chen and Cherry, 2014)."""
    max_ngram_order: int = Field(default=4, ge=1)
    """The largest n-gram order."""
    effective_order: bool = False
    """Ignore n-gram orders longer than the predictions, for texts of a few words."""

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the corpus scores as ``bleu`` and ``bleu1`` to ``bleu4``."""
        from sacrebleu.metrics.bleu import BLEU

        def score_up_to(order: int) -> float:
            bleu = BLEU(
                lowercase=self.lowercase,
                tokenize=self.tokenize,
                smooth_method=self.smooth_method,
                max_ngram_order=order,
                effective_order=self.effective_order,
            )
            return float(bleu.corpus_score(list(predictions), transpose_references(references)).score)

        scores = {order: score_up_to(order) for order in {1, 2, 3, 4, self.max_ngram_order}}
        return {self.name: scores[self.max_ngram_order]} | {f"bleu{order}": scores[order] for order in (1, 2, 3, 4)}


class Chrf(EvaluateMetric):
    """Corpus chrF by sacrebleu, from 0 to 100 (Popović, 2015; Post, 2018).

    It is the F-score of character n-grams, and of word n-grams if ``word_order`` is above 0; 2 gives chrF++ (Popović,
    2017).
    """

    name: Literal["chrf"] = "chrf"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation", "chat")

    char_order: int = Field(default=6, ge=1)
    """The largest order of character n-grams."""
    word_order: int = Field(default=0, ge=0)
    """The largest order of word n-grams; 2 for chrF++."""
    beta: int = Field(default=2, ge=1)
    """The weight of recall relative to precision."""
    lowercase: bool = False
    """Ignore case."""

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the corpus score as ``chrf``."""
        from sacrebleu.metrics.chrf import CHRF

        chrf = CHRF(char_order=self.char_order, word_order=self.word_order, beta=self.beta, lowercase=self.lowercase)
        return {self.name: float(chrf.corpus_score(list(predictions), transpose_references(references)).score)}


class Distinct(EvaluateMetric):
    """The share of distinct word n-grams among all word n-grams of the predictions (Li et al., 2016).

    It is near 0 if a model generates the same text for every example, and 0 if there are no n-grams. Words are
    separated by whitespace; case is ignored.
    """

    name: Literal["distinct"] = "distinct"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation", "chat")
    values: ClassVar[tuple[str, ...]] = ("distinct1", "distinct2", "distinct3")

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the shares as ``distinct1``, ``distinct2`` and ``distinct3``."""
        words = [normalize(text).split() for text in predictions]
        return {f"distinct{order}": _distinct_share(words, order) for order in (1, 2, 3)}


def _distinct_share(texts: Sequence[Sequence[str]], order: int) -> float:
    grams = [tuple(words[i : i + order]) for words in texts for i in range(len(words) - order + 1)]
    return len({*grams}) / len(grams) if grams else 0.0


def transpose_references(references: Sequence[Sequence[str]]) -> list[tuple[str | None, ...]]:
    """Transpose references as sacrebleu expects them: all first references, all second ones, …, None if missing."""
    return list(zip_longest(*references))


class Rouge(EvaluateMetric):
    """ROUGE F1 of unigrams, bigrams and longest common subsequences, by rouge-score (Lin, 2004).

    Each value is a mean over examples; of several references, the best counts. ``rougeLsum`` treats lines as sentences.
    Words consist of the letters a to z and digits only, so texts in other scripts score 0.
    """

    name: Literal["rouge"] = "rouge"
    is_mean_of_examples: ClassVar[bool] = True
    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation", "chat")
    values: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL", "rougeLsum")

    use_stemmer: bool = False
    """Stem English words before comparing them (Porter, 1980)."""

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the means as ``rouge1``, ``rouge2``, ``rougeL`` and ``rougeLsum``."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(self.values), use_stemmer=self.use_stemmer)
        scores = [scorer.score_multi(texts, p) for p, texts in zip(predictions, references, strict=True)]
        return {key: mean([float(score[key].fmeasure) for score in scores]) for key in self.values}
