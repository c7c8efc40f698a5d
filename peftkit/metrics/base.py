"""The base class of the built-in metrics, which are modules of Hugging Face's ``evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftkit.components import Example, Metric
from peftkit.text_normalization import normalize

__all__ = ["EvaluateMetric", "mean", "normalize"]

if TYPE_CHECKING:
    import evaluate


class EvaluateMetric(Metric):
    """A metric that is computed by a module of ``evaluate``. Subclasses implement ``_compute``."""

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Score valid rows: as many references as predictions, and at least one reference for each."""
        raise NotImplementedError

    def module(self) -> evaluate.Metric:
        """Return the metric as an ``evaluate.Metric``, which needs no network and works with ``evaluate.combine``."""
        from peftkit.metrics.evaluate_module import EvaluateModule  # evaluate takes seconds to import

        return EvaluateModule(self)

    def compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Score the predictions; see ``Metric.compute``.

        Raises:
            ValueError: There are no predictions, their number differs from that of the references, or an example has no
                reference.
        """
        if any(isinstance(texts, str) for texts in references):  # a str passes the type checker as a Sequence[str]
            raise ValueError(f"{self.name}: the references of an example must be a list of texts, not one text")
        scores: dict[str, float] = self.module().compute(
            predictions=list(predictions), references=[list(texts) for texts in references], examples=examples
        )
        return scores


def mean(values: Sequence[float]) -> float:
    """Compute the arithmetic mean of at least one value."""
    return sum(values) / len(values)
