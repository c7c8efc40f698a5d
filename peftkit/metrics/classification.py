"""Metrics of labels: for classification and, where it means something, multiple choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from peftkit.components import Example, TaskKind
from peftkit.metrics.base import EvaluateMetric


class Accuracy(EvaluateMetric):
    """The share of predictions that are right: equal to any of the example's references.

    Labels are compared as they stand. A prediction that is not among the candidates is simply wrong.
    """

    name: Literal["accuracy"] = "accuracy"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification", "multiple_choice")
    per_example: ClassVar[bool] = True

    def each(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> list[dict[str, float]]:
        # scikit-learn takes longer to check a single pair than to score a thousand.
        return [{self.name: float(p in r)} for p, r in zip(predictions, references, strict=True)]

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The accuracy as ``accuracy``."""
        from sklearn.metrics import accuracy_score

        return {self.name: float(accuracy_score(_true_labels(predictions, references), predictions))}


class BalancedAccuracy(EvaluateMetric):
    """The mean of the recalls of the labels that occur among the references (Brodersen et al., 2010).

    It differs from ``recall_macro`` where a candidate occurs in no reference: such a label has no recall, and is
    left out here. One label alone makes it the accuracy.
    """

    name: Literal["balanced_accuracy"] = "balanced_accuracy"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification",)

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The balanced accuracy as ``balanced_accuracy``."""
        from sklearn.metrics import recall_score

        # scikit-learn's balanced_accuracy_score gives the same value, and warns of predictions that are no label
        true = _true_labels(predictions, references)
        return {self.name: float(recall_score(true, predictions, labels=sorted(set(true)), average="macro"))}


class MatthewsCorrelation(EvaluateMetric):
    """Matthews' correlation of predicted and right labels, for any number of them (Matthews, 1975; Gorodkin, 2004).

    It goes from -1 to 1, and is 0 for guessing. It is not defined, and given as 0, where all predictions, or all
    references, are one label. Predictions that are not among the candidates count as labels of their own.
    """

    name: Literal["matthews_correlation"] = "matthews_correlation"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification",)

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The correlation as ``matthews_correlation``."""
        from sklearn.metrics import matthews_corrcoef

        true = _true_labels(predictions, references)
        if len({*true, *predictions}) == 1:  # scikit-learn gives 0 too, with a warning
            return {self.name: 0.0}
        return {self.name: float(matthews_corrcoef(true, predictions))}


class _Macro(EvaluateMetric):
    """One of scikit-learn's scores of each label, averaged over the labels without weights."""

    kinds: ClassVar[tuple[TaskKind, ...]] = ("classification",)

    absent_labels: Literal["zero", "skip"] = "zero"
    """What becomes of candidates that no reference and no prediction names: ``zero`` scores them 0, so that the mean
    is over the same labels at every evaluation, and ``skip`` leaves them out, as scikit-learn does when it is not
    given the labels."""

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The average by the metric's own name."""
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
    """The precision of each label, averaged over the labels without weights.

    The labels are all the examples' candidates. One that is never predicted has the precision 0. A prediction that
    is not among them is wrong, and no label of its own.
    """

    name: Literal["precision_macro"] = "precision_macro"


class RecallMacro(_Macro):
    """The recall of each label, averaged over the labels without weights.

    The labels are all the examples' candidates. One that occurs in no reference has the recall 0, which
    ``balanced_accuracy`` leaves out.
    """

    name: Literal["recall_macro"] = "recall_macro"


class F1Macro(_Macro):
    """The F1 of each label, averaged over the labels without weights (not the F1 of averages; Opitz and Burst, 2019).

    The labels are all the examples' candidates. A prediction that is not among them is wrong, and no label of its own.
    """

    name: Literal["f1_macro"] = "f1_macro"


def _true_labels(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[str]:
    """One right label per example: the predicted one where it is among the references, else the first of them."""
    return [p if p in right else right[0] for p, right in zip(predictions, references, strict=True)]
