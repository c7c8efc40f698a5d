"""Metrics of predicted sets of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from peftkit.answer_texts.label_sets import LABELS, NO_LABEL, SEPARATOR, split_labels
from peftkit.components import Example, TaskKind
from peftkit.metrics.base import EvaluateMetric, mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

KINDS: tuple[TaskKind, ...] = ("multi_label",)


class MultiLabelF1(EvaluateMetric):
    """F1 of sets of labels: of all decisions together (micro), and the mean of the labels' F1 (macro).

    The values, ``f1_micro`` and ``f1_macro``, are those of scikit-learn's ``f1_score`` with ``zero_division=0``: a
    label that is in no reference and no prediction has an F1 of 0. A piece of a generated text that is no label is a
    wrong label for ``f1_micro``.
    """

    name: Literal["multi_label_f1"] = "multi_label_f1"
    kinds: ClassVar[tuple[TaskKind, ...]] = KINDS
    values: ClassVar[tuple[str, ...]] = ("f1_micro", "f1_macro")
    is_mean_of_examples: ClassVar[bool] = True

    def compute_per_example(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> list[dict[str, float]]:
        """Return pseudo-values (see ``peftkit.metrics.pseudo_values``)."""
        from peftkit.metrics.pseudo_values import pseudo_values

        counts = _count(predictions, references, examples)
        rows = zip(pseudo_values(counts, _micro), pseudo_values(counts, _macro), strict=True)
        return [{"f1_micro": micro, "f1_macro": macro} for micro, macro in rows]

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the scores as ``f1_micro`` and ``f1_macro``."""
        counts = _count(predictions, references, examples).sum(axis=0)
        return {"f1_micro": float(_micro(counts)), "f1_macro": float(_macro(counts))}


class ExactSet(EvaluateMetric):
    """The share of rows whose set of labels is predicted exactly, also called subset accuracy."""

    name: Literal["exact_set"] = "exact_set"
    kinds: ClassVar[tuple[TaskKind, ...]] = KINDS
    is_mean_of_examples: ClassVar[bool] = True

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share as ``exact_set``."""
        sets = _sets(predictions, references, examples)
        return {self.name: mean([float(predicted == right) for predicted, right in sets])}


class UnknownLabels(EvaluateMetric):
    """The share of rows whose predicted text has a piece that is no label.

    Only models that generate their answers have any.
    """

    name: Literal["unknown_labels"] = "unknown_labels"
    kinds: ClassVar[tuple[TaskKind, ...]] = KINDS
    higher_is_better: ClassVar[bool] = False
    is_mean_of_examples: ClassVar[bool] = True

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share as ``unknown_labels``."""
        known = {*_labels(examples, references)}
        sets = _sets(predictions, references, examples)
        return {self.name: mean([float(not predicted <= known) for predicted, _ in sets])}


class MeanAveragePrecision(EvaluateMetric):
    """Mean average precision: the mean over the labels of the area under the curve of precision and recall.

    It scores probabilities, so only models with a head have it. The values are scikit-learn's
    ``average_precision_score``; labels that are in no reference are left out, and it is 0 if there is none.
    """

    name: Literal["mean_average_precision"] = "mean_average_precision"
    kinds: ClassVar[tuple[TaskKind, ...]] = KINDS
    input: ClassVar[str] = "probabilities"

    def _compute(
        self, predictions: Sequence[Any], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the mean as ``mean_average_precision``."""
        import numpy as np
        from sklearn.metrics import average_precision_score

        labels = [*predictions[0]]
        right = [split_labels(texts[0], _no_label(examples)) for texts in references]
        scores = []
        for label in labels:
            is_right = np.array([label in each for each in right])
            if is_right.any():
                probabilities: list[float] = [_probability(each, label) for each in predictions]
                if not np.isfinite(probabilities).all():
                    return {self.name: float("nan")}
                scores.append(float(average_precision_score(is_right, probabilities)))
        return {self.name: mean(scores) if scores else 0.0}


def _probability(prediction: Mapping[str, float], label: str) -> float:
    return prediction[label]


def _no_label(examples: Sequence[Example]) -> str:
    """Return the text of a row without labels."""
    return examples[0].extra.get(NO_LABEL, "") if examples else ""


def _labels(examples: Sequence[Example], references: Sequence[Sequence[str]]) -> list[str]:
    """Return all labels of the task, or without examples those of the references."""
    if examples and LABELS in examples[0].extra:
        return examples[0].extra[LABELS].split(SEPARATOR)
    return sorted({label for texts in references for label in split_labels(texts[0], _no_label(examples))})


def _sets(
    predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Return the predicted and the right labels of each row."""
    no_label = _no_label(examples)
    rows = zip(predictions, references, strict=True)
    return [(split_labels(text, no_label), split_labels(texts[0], no_label)) for text, texts in rows]


def _count(predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]) -> Array:
    """Count right, predicted and correctly predicted labels.

    Returns:
        Counts of shape (rows, 3 × (labels + 1)): for each label, and at last for all unknown pieces together, whether
        it is in both, in the prediction, and in the reference.
    """
    import numpy as np

    labels = _labels(examples, references)
    index = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(predictions), len(labels) + 1, 3))
    for row, (predicted, right) in enumerate(_sets(predictions, references, examples)):
        for label in predicted:
            counts[row, index.get(label, len(labels)), 1] += 1
        for label in right:
            counts[row, index.get(label, len(labels)), 2] += 1
        for label in predicted & right:
            counts[row, index.get(label, len(labels)), 0] += 1
    return counts.reshape(len(predictions), -1)


def _micro(sums: Array) -> Array:
    """Return micro F1 from sums of shape (…, 3 × (labels + 1)), of shape (…)."""
    return _f1(sums.reshape(*sums.shape[:-1], -1, 3).sum(axis=-2))


def _macro(sums: Array) -> Array:
    """Return macro F1 from sums of shape (…, 3 × (labels + 1)), of shape (…)."""
    f1: Array = _f1(sums.reshape(*sums.shape[:-1], -1, 3)[..., :-1, :])
    average: Array = f1.sum(axis=-1) / max(1, f1.shape[-1])
    return average


def _f1(counts: Array) -> Array:
    """Return F1 from counts of shape (…, 3); 0 where there is neither a prediction nor a reference."""
    import numpy as np

    both, predicted, right = np.moveaxis(counts, -1, 0)
    result: Array = 2 * both / np.maximum(predicted + right, 1)
    return result
