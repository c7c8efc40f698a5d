"""Metrics of language models: how likely the tokens of texts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from peftkit.components import Example, TaskKind
from peftkit.metrics.base import EvaluateMetric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class _OfTexts(EvaluateMetric):
    """A metric that is a function of two sums over texts."""

    kinds: ClassVar[tuple[TaskKind, ...]] = ("language_modeling",)
    input: ClassVar[str] = "likelihood"
    higher_is_better: ClassVar[bool] = False
    is_mean_of_examples: ClassVar[bool] = True
    unit: ClassVar[str]
    """What the negative log-likelihood is divided by."""

    def _score(self, sums: Array) -> Array:
        """Return scores of shape (…) from sums of nats and units, of shape (…, 2)."""
        raise NotImplementedError

    def _statistics(self, predictions: Sequence[Any]) -> Array:
        import numpy as np

        likelihoods: Sequence[Mapping[str, float]] = predictions
        return np.array([[each["nats"], each[self.unit]] for each in likelihoods], dtype=float)

    def compute_per_example(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> list[dict[str, float]]:
        """Return a pseudo-value for each text, so that comparisons can resample texts."""
        from peftkit.metrics.pseudo_values import pseudo_values  # imports numpy

        return [{self.name: value} for value in pseudo_values(self._statistics(predictions), self._score)]

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the score of all texts."""
        return {self.name: float(self._score(self._statistics(predictions).sum(axis=0)))}


class Perplexity(_OfTexts):
    """Perplexity: the exponential of the mean cross-entropy of a token (Jelinek et al., 1977).

    Models with different tokenizers cannot be compared by it.
    """

    name: Literal["perplexity"] = "perplexity"
    unit: ClassVar[str] = "tokens"

    def _score(self, sums: Array) -> Array:
        import numpy as np

        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            result: Array = np.exp(sums[..., 0] / sums[..., 1])
        return result


class BitsPerByte(_OfTexts):
    """Bits per byte: the cross-entropy of texts, divided by their length in UTF-8 (Gao et al., 2020).

    Bytes are those of the texts as read, so models with different tokenizers can be compared.
    """

    name: Literal["bits_per_byte"] = "bits_per_byte"
    unit: ClassVar[str] = "bytes"

    def _score(self, sums: Array) -> Array:
        import numpy as np

        with np.errstate(divide="ignore", invalid="ignore"):
            result: Array = sums[..., 0] / (np.log(2) * sums[..., 1])
        return result
