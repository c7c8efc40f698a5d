"""Metrics of predicted labels, for classification and multiple choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from peftkit.components import Example, TaskKind
from peftkit.errors import comma_separated, did_you_mean
from peftkit.metrics.base import EvaluateMetric


class Accuracy(EvaluateMetric):
    """The share of predictions that equal one of the example's references.

    Labels are compared without normalization. A prediction that is not among the candidates is wrong.
    """

    name: Literal["accuracy"] = "accuracy"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification", "multiple_choice")
    is_mean_of_examples: ClassVar[bool] = True

    def compute_per_example(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> list[dict[str, float]]:
        return [{self.name: float(p in texts)} for p, texts in zip(predictions, references, strict=True)]

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the accuracy as ``accuracy``."""
        # The value of scikit-learn's accuracy_score, which first checks and sorts the labels: a hundred times as slow.
        right = sum(p in texts for p, texts in zip(predictions, references, strict=True))
        return {self.name: right / len(predictions)}


class BalancedAccuracy(EvaluateMetric):
    """The mean recall of the labels that occur in the references (Brodersen et al., 2010).

    Unlike ``recall_macro``, it leaves out candidates that occur in no reference. With one label it equals accuracy.
    """

    name: Literal["balanced_accuracy"] = "balanced_accuracy"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification",)

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the balanced accuracy as ``balanced_accuracy``."""
        from sklearn.metrics import recall_score

        # balanced_accuracy_score gives the same value, and warns about predictions that are not labels
        true = _true_labels(predictions, references)
        return {self.name: float(recall_score(true, predictions, labels=sorted(set(true)), average="macro"))}


class MatthewsCorrelation(EvaluateMetric):
    """Matthews correlation coefficient for any number of labels (Matthews, 1975; Gorodkin, 2004).

    It ranges from -1 to 1, and is 0 for guessing. Where it is undefined, because all predictions or all references are
    the same label, it is 0. Predictions that are not among the candidates count as further labels.
    """

    name: Literal["matthews_correlation"] = "matthews_correlation"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification",)

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the correlation as ``matthews_correlation``."""
        from sklearn.metrics import matthews_corrcoef

        true = _true_labels(predictions, references)
        if len({*true, *predictions}) == 1:  # scikit-learn also returns 0, with a warning
            return {self.name: 0.0}
        return {self.name: float(matthews_corrcoef(true, predictions))}


class F1(EvaluateMetric):
    """F1 of one label, the positive one: the harmonic mean of its precision and recall, as in scikit-learn.

    It is 0 where no example has the positive label and none is predicted.
    """

    name: Literal["f1"] = "f1"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification",)

    positive_label: str | None = None
    """The positive label, by the text that is ranked for it; the second one of two labels if unset."""

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the F1 as ``f1``.

        Raises:
            ValueError: The positive label is none of the labels, or is not set and there are not two labels.
        """
        from sklearn.metrics import f1_score

        positive = self._positive(list(dict.fromkeys(label for each in examples for label in each.candidates)))
        true = [text == positive for text in _true_labels(predictions, references)]
        predicted = [text == positive for text in predictions]
        return {self.name: float(f1_score(true, predicted, zero_division=0))}

    def _positive(self, labels: Sequence[str]) -> str:
        if self.positive_label is None:
            if len(labels) != 2:
                raise ValueError(f"set positive_label, since there are {len(labels)} labels: {comma_separated(labels)}")
            return labels[1]
        if labels and self.positive_label not in labels:
            near = did_you_mean(self.positive_label, labels)
            raise ValueError(
                f"positive_label {self.positive_label!r} is none of the labels{near}: {comma_separated(labels)}"
            )
        return self.positive_label


class _Macro(EvaluateMetric):
    """A score of scikit-learn per label, macro-averaged."""

    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification",)

    absent_labels: Literal["zero", "skip"] = "zero"
    """How candidates that occur in no reference and no prediction count: ``zero`` scores them 0, so that every
    evaluation averages over the same labels; ``skip`` leaves them out, like scikit-learn without ``labels``."""

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the macro average by the name of the metric."""
        from sklearn.metrics import precision_recall_fscore_support

        true = _true_labels(predictions, references)
        labels = {label for example in examples for label in example.candidates} or {*true, *predictions}
        if self.absent_labels == "skip":
            labels &= {*true, *predictions}
        precision, recall, f1, _ = precision_recall_fscore_support(
            true, predictions, labels=sorted(labels | {*true}), average="macro", zero_division=0
        )
        values = {"precision_macro": precision, "recall_macro": recall, "f1_macro": f1}
        return {self.name: float(values[self.name])}


class PrecisionMacro(_Macro):
    """Macro-averaged precision: the unweighted mean over the labels.

    The labels are the candidates of all examples. A label that is never predicted has a precision of 0. A prediction
    that is not among the candidates is wrong, and does not count as a label.
    """

    name: Literal["precision_macro"] = "precision_macro"


class RecallMacro(_Macro):
    """Macro-averaged recall: the unweighted mean over the labels.

    The labels are the candidates of all examples. A label that occurs in no reference has a recall of 0; use
    ``balanced_accuracy`` to leave such labels out.
    """

    name: Literal["recall_macro"] = "recall_macro"


class F1Macro(_Macro):
    """Macro-averaged F1: the unweighted mean of the labels' F1 (not the F1 of averages; Opitz and Burst, 2019).

    The labels are the candidates of all examples. A prediction that is not among them is wrong, and does not count as a
    label.
    """

    name: Literal["f1_macro"] = "f1_macro"


def _true_labels(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[str]:
    """Return one correct label per example: the prediction if it is among the references, else the first reference."""
    return [p if p in texts else texts[0] for p, texts in zip(predictions, references, strict=True)]
