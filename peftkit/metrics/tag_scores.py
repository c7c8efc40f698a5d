"""Metrics of tagged words; a prediction is the tags of a sentence, separated by blanks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from peftkit.components import Example, TaskKind
from peftkit.errors import InputError
from peftkit.metrics.base import EvaluateMetric
from peftkit.tag_schemes import (
    OUTSIDE,
    SCHEME_KEY,
    SCHEMES,
    Entity,
    entities,
    lenient_entities,
    strict_entities,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class _OfWords(EvaluateMetric):
    """A metric that is a function of sums over sentences."""

    kinds: ClassVar[tuple[TaskKind, ...]] = ("token_tagging",)
    is_mean_of_examples: ClassVar[bool] = True

    def _statistics(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> Array:
        """Return the terms of the sums, of shape (sentences, sums)."""
        raise NotImplementedError

    def _scores(self, sums: Array) -> dict[str, Array]:
        """Return the values by name, of shape (…), from sums of shape (…, sums)."""
        raise NotImplementedError

    def compute_per_example(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> list[dict[str, float]]:
        """Return a pseudo-value for each sentence, so that comparisons can resample sentences."""
        from peftkit.metrics.pseudo_values import pseudo_values  # imports numpy

        statistics = self._statistics(predictions, references, examples)
        columns = [pseudo_values(statistics, partial(self._score, name)) for name in self.value_names]
        return [dict(zip(self.value_names, values, strict=True)) for values in zip(*columns, strict=True)]

    def _score(self, name: str, sums: Array) -> Array:
        return self._scores(sums)[name]

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the values by name."""
        sums = self._statistics(predictions, references, examples).sum(axis=0)
        return {key: float(value) for key, value in self._scores(sums).items()}


class TokenAccuracy(_OfWords):
    """The share of words with the right tag."""

    name: Literal["token_accuracy"] = "token_accuracy"

    def _statistics(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> Array:
        import numpy as np

        pairs = [_tags(p, texts) for p, texts in zip(predictions, references, strict=True)]
        counts = [(sum(map(str.__eq__, *pair)), len(pair[1])) for pair in pairs]
        return np.array(counts, dtype=float)

    def _scores(self, sums: Array) -> dict[str, Array]:
        return {self.name: _divide(sums[..., 0], sums[..., 1])}


class EntityF1(_OfWords):
    """F1, precision and recall of entities, as seqeval computes them (Nakayama, 2018).

    An entity is right if its type and all of its words are. The default mode is that of the CoNLL-2000 evaluation: an
    I-PER without B-PER starts an entity too. In strict mode only entities count that are written as the task's scheme
    demands; use it for BILOU, whose adjacent entities the default mode confuses. Without a scheme, each word with a tag
    other than O is an entity.
    """

    name: Literal["entity_f1"] = "entity_f1"
    values: ClassVar[tuple[str, ...]] = ("entity_f1", "entity_precision", "entity_recall")

    mode: Literal["default", "strict"] = "default"
    """Whether predicted entities that break the scheme count (``default``) or not (``strict``)."""
    average: Literal["micro", "macro", "weighted"] = "micro"
    """Over all entities (``micro``), or the mean over types, unweighted or weighted by their number of entities."""

    def _statistics(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> Array:
        """Count, for each type, entities that are right, predicted, and true."""
        import numpy as np

        rows: list[tuple[Counter[str], ...]] = []
        schemes = [example.extra.get(SCHEME_KEY, "") for example in examples] or [""] * len(predictions)
        for prediction, texts, scheme in zip(predictions, references, schemes, strict=True):
            predicted, true = ({*self._entities(tags, scheme)} for tags in _tags(prediction, texts))
            rows.append(tuple(Counter(kind for kind, _, _ in each) for each in (predicted & true, predicted, true)))
        kinds = sorted({kind for row in rows for counts in row for kind in counts})
        counted = [[counts[kind] for kind in kinds for counts in row] for row in rows]
        return np.array(counted, dtype=float).reshape(len(rows), 3 * len(kinds))

    def _entities(self, tags: Sequence[str], scheme: str) -> list[Entity]:
        if scheme == "none":
            return entities(tags, "none")
        if self.mode == "default":
            return lenient_entities(tags)
        if scheme not in SCHEMES:
            raise InputError(f"{self.name}: mode = 'strict' needs the scheme of the tags in extra[{SCHEME_KEY!r}]")
        return strict_entities(tags, scheme)

    def _scores(self, sums: Array) -> dict[str, Array]:
        counts = sums.reshape(*sums.shape[:-1], -1, 3)
        if self.average == "micro":
            counts = counts.sum(axis=-2, keepdims=True)
        right, predicted, true = counts[..., 0], counts[..., 1], counts[..., 2]
        precision, recall = _divide(right, predicted), _divide(right, true)
        f1 = _divide(2 * precision * recall, precision + recall)
        # Types without entities are not averaged over.
        weights = true if self.average == "weighted" else ((predicted + true) > 0).astype(float)
        total = weights.sum(axis=-1)
        scores = zip(self.value_names, (f1, precision, recall), strict=True)
        return {name: _divide((score * weights).sum(axis=-1), total) for name, score in scores}


def _tags(prediction: str, references: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the predicted and the true tags of a sentence; words without a prediction are outside of all entities."""
    predicted, true = prediction.split(), references[0].split()
    return (predicted + [OUTSIDE] * len(true))[: len(true)], true


def _divide(numerator: Array, denominator: Array) -> Array:
    """Divide; a quotient without denominator is 0."""
    import numpy as np

    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)
