"""The base class of the built-in metrics, which are modules of Hugging Face's ``evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftkit.answer_texts.text_normalization import normalize
from peftkit.components import Example, Metric

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

        The scores are those of ``module().compute``, which also writes the texts to an Arrow table and reads them
        back: that takes longer than most metrics.

        Args:
            predictions: A text for each example.
            references: At least one text for each example.
            examples: The examples, for metrics that need them.

        Returns:
            The scores by name.

        Raises:
            ValueError: There are no predictions, their number differs from that of the references, or an example has no
                reference.
        """
        if any(isinstance(texts, str) for texts in references):  # a str passes the type checker as a Sequence[str]
            raise ValueError(f"{self.name}: the references of an example must be a list of texts, not one text")
        if len(predictions) != len(references):
            raise ValueError(
                f"{self.name}: the number of predictions, {len(predictions)}, is not that of the references, "
                f"{len(references)}"
            )
        if not predictions:
            raise ValueError(f"{self.name}: there are no predictions to score")
        if not all(references):
            raise ValueError(f"{self.name}: every example needs at least one reference")
        return self._compute(list(predictions), [list(texts) for texts in references], examples)


def mean(values: Sequence[float]) -> float:
    """Compute the arithmetic mean of at least one value."""
    return sum(values) / len(values)
