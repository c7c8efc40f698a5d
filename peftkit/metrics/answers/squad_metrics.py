"""The metrics of SQuAD."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from peftkit.components import Example, TaskKind
from peftkit.metrics.base import EvaluateMetric, mean

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Squad(EvaluateMetric):
    """Exact match and F1 of words of SQuAD's official scripts, from 0 to 100 (Rajpurkar et al., 2016 and 2018).

    Case, punctuation, the articles a, an and the, and the amount of whitespace are ignored. Of several answers, the
    best counts. An empty prediction is right where there is no answer, and wrong elsewhere.
    """

    name: Literal["squad"] = "squad"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("span_qa", "generation")
    values: ClassVar[tuple[str, ...]] = ("squad_exact_match", "squad_f1")
    is_mean_of_examples: ClassVar[bool] = True

    version: Literal["1.1", "2.0"] = "2.0"
    """The official script whose scores these are. They differ for answers without any word, such as ``The``: version
    2.0 leaves them out and scores two empty texts 100; version 1.1 scores their F1 0."""

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the means as ``squad_exact_match`` and ``squad_f1``."""
        exact, f1 = [], []
        for prediction, texts in zip(predictions, references, strict=True):
            predicted, answers = normalize_answer(prediction), [normalize_answer(text) for text in texts]
            if self.version == "2.0":
                answers = [*filter(None, answers)] or [""]
            exact.append(float(predicted in answers))
            f1.append(max(self._f1(predicted.split(), answer.split()) for answer in answers))
        return {"squad_exact_match": 100 * mean(exact), "squad_f1": 100 * mean(f1)}

    def _f1(self, predicted: Sequence[str], answer: Sequence[str]) -> float:
        if not predicted or not answer:
            return float(self.version == "2.0" and predicted == answer)
        common = sum((Counter(predicted) & Counter(answer)).values())
        return 2 * common / (len(predicted) + len(answer))


def normalize_answer(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and extra whitespace."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())
