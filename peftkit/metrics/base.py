"""What the built-in metrics share: the road through Hugging Face's ``evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peftkit.components import Example, Metric
from peftkit.texts import normalised

__all__ = ["EvaluateMetric", "mean", "normalised"]

if TYPE_CHECKING:
    from peftkit.metrics.bridge import EvaluateModule


class EvaluateMetric(Metric):
    """A metric that computes through a module of ``evaluate``. Sub-class it and write ``score``."""

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """What ``compute`` returns, for rows that have been checked: as many references as predictions, none empty."""
        raise NotImplementedError

    def module(self) -> EvaluateModule:
        """This metric as an ``evaluate.Metric``, which needs no network and can be given to ``evaluate.combine``."""
        from peftkit.metrics.bridge import EvaluateModule  # evaluate takes seconds to import

        return EvaluateModule(self)

    def compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Scores the predictions; see ``Metric.compute``.

        Raises:
            ValueError: there are no predictions, not as many references, or an example without a reference.
        """
        if any(isinstance(texts, str) for texts in references):  # a text is a sequence of texts to the type checker
            raise ValueError(f"{self.name}: the references of an example are a list of texts, not one text")
        scores: dict[str, float] = self.module().compute(
            predictions=list(predictions), references=[list(texts) for texts in references], examples=examples
        )
        return scores


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of at least one value."""
    return sum(values) / len(values)
