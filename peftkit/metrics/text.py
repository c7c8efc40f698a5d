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
    ``effective_order`` is set.
    """

    name: Literal["bleu"] = "bleu"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("generation",)

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
        """The score of the corpus as ``bleu``."""
        from sacrebleu.metrics.bleu import BLEU

        bleu = BLEU(
            lowercase=self.lowercase,
            tokenize=self.tokenize,
            smooth_method=self.smooth_method,
            max_ngram_order=self.max_ngram_order,
            effective_order=self.effective_order,
        )
        # sacrebleu wants the first references of all examples, then all the second ones; None where there is none
        return {self.name: bleu.corpus_score(list(predictions), list(zip_longest(*references))).score}


class Rouge(EvaluateMetric):
    """The F1 of common words, pairs of words and longest common sub-sequences, by rouge-score (Lin, 2004).

    Each value is the mean over the examples, of each the best over its references. ``rougeLsum`` takes lines for
    sentences. Only the letters a to z and digits make words, so that other scripts score 0.
    """

    name: Literal["rouge"] = "rouge"
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
