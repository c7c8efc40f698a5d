"""The base class of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from peftkit.components.component import Component
from peftkit.components.types import Example, TaskKind


class Metric(Component):
    """Scores predicted texts against reference texts."""

    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification", "multiple_choice", "generation")
    """The kinds of task that the metric supports."""
    higher_is_better: ClassVar[bool] = True
    """Whether a higher value is better."""
    input: ClassVar[str] = "prediction"
    """Which value of a prediction is scored: ``prediction``, the text; ``teacher_forced``, the output under teacher
    forcing, for comparison with older systems; or another one that the objective predicts, such as ``probabilities``.
    ``compute`` is given these values. Only metrics of texts are computed for baselines. Teacher forcing leaks the
    answer, so such a metric never selects a checkpoint."""
    values: ClassVar[tuple[str, ...]] = ()
    """The names of the values that ``compute`` returns; empty if the only value has the name of the metric. Values of
    parts of the data may be added, named by a value and the part, as in ``mse.valence``."""
    is_mean_of_examples: ClassVar[bool] = False
    """Whether each value is the mean of per-example scores, so that runs can be compared example by example. The scores
    of a metric that is no mean can be pseudo-values (see ``peftkit.metrics.pseudo_values``)."""

    @property
    def value_names(self) -> tuple[str, ...]:
        """The names of the values that ``compute`` returns."""
        return type(self).values or (self.name,)

    def companions(self) -> tuple[Metric, ...]:
        """Return metrics without which the score would mislead, such as the share of answers that cannot be read.

        They are computed and shown wherever this metric is.
        """
        return ()

    def applies_to(self, examples: Sequence[Example]) -> bool:
        """Return whether the metric scores these examples; by default, if they have answers.

        The values of a metric that does not apply are left out.

        Args:
            examples: The examples of a split or an evaluation set.
        """
        return any(example.has_answer for example in examples)

    def compute_per_example(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> list[dict[str, float]]:
        """Score every example separately.

        Args:
            predictions: One text for each example.
            references: The correct texts of each example, at least one.
            examples: The examples.

        Returns:
            The values by name, for each example.
        """
        rows = zip(predictions, references, examples, strict=True)
        return [self._compute([prediction], [texts], [example]) for prediction, texts, example in rows]

    def compute_by_chance(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return the values that predictions at random are expected to have, if they are no texts.

        Args:
            examples: The examples.

        Returns:
            The values by name; empty, the default, if they are not known.
        """
        return {}

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Score predictions without validating them.

        Override it in metrics whose checks take longer than scoring.

        Args:
            predictions: One text for each example.
            references: The correct texts of each example, at least one.
            examples: The examples.

        Returns:
            The values by name, as from ``compute``.
        """
        return self.compute(predictions, references, examples)

    def compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Score the predictions.

        Args:
            predictions: One text for each example.
            references: The correct texts of each example, at least one.
            examples: The examples, for metrics that need the source, the candidates or ``extra``.

        Returns:
            The values by name. A metric with one value uses its name.
        """
        raise NotImplementedError
