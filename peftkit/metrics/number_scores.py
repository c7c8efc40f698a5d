"""Metrics of predicted numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from peftkit.answer_texts.number_texts import parse_numbers
from peftkit.components import Example, TaskKind
from peftkit.metrics.base import EvaluateMetric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


class _Regression(EvaluateMetric):
    """Base class of metrics that compare numbers, which are given as texts.

    With several targets, the value is the mean over the targets, and there is one more for each target, as in
    ``mse.valence``. A text that is not as many numbers as there are targets counts as the worst prediction: in each
    target, the smallest or largest reference of the rows, whichever is farther from the right number.
    """

    kinds: ClassVar[tuple[TaskKind, ...]] = ("regression",)
    is_mean_of_examples: ClassVar[bool] = True

    def compute_per_example(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> list[dict[str, float]]:
        predicted, right = _read(predictions, references)
        names = _target_names(right.shape[1], examples)
        return [self._named(values, names) for values in self._scores(predicted, right).tolist()]

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the mean over the targets by the name of the metric, and the values of several targets."""
        predicted, right = _read(predictions, references)
        return self._named(self._values(predicted, right).tolist(), _target_names(right.shape[1], examples))

    def _named(self, values: Sequence[float], names: Sequence[str]) -> dict[str, float]:
        mean = {self.name: float(sum(values) / len(values))}
        return mean | {f"{self.name}.{name}": value for name, value in zip(names, values, strict=bool(names))}

    def _values(self, predicted: Array, right: Array) -> Array:
        """Return the value of each target, of shape (targets,), from numbers of shape (rows, targets)."""
        values: Array = self._scores(predicted, right).mean(axis=0)
        return values

    def _scores(self, predicted: Array, right: Array) -> Array:
        """Return scores of shape (rows, targets) whose means are the values."""
        raise NotImplementedError


class MeanSquaredError(_Regression):
    """The mean squared error; with several targets, its mean over them.

    A text that is no number counts as the worst reference of the rows.
    """

    name: Literal["mse"] = "mse"
    higher_is_better: ClassVar[bool] = False

    def _scores(self, predicted: Array, right: Array) -> Array:
        return (predicted - right) ** 2


class MeanAbsoluteError(_Regression):
    """The mean absolute error; with several targets, its mean over them.

    A text that is no number counts as the worst reference of the rows.
    """

    name: Literal["mae"] = "mae"
    higher_is_better: ClassVar[bool] = False

    def _scores(self, predicted: Array, right: Array) -> Array:
        return abs(predicted - right)


class Pearson(_Regression):
    """Pearson's correlation of predicted and right numbers; with several targets, its mean over them.

    It is 0 where it is undefined, because all predictions or all references are the same. A text that is no number
    counts as the worst reference of the rows.
    """

    name: Literal["pearson"] = "pearson"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("regression", "text_similarity")

    def _values(self, predicted: Array, right: Array) -> Array:
        from scipy.stats import pearsonr

        return _correlations(predicted, right, lambda a, b: pearsonr(a, b).statistic)

    def _scores(self, predicted: Array, right: Array) -> Array:
        return _pseudo_correlations(predicted, right)


class Spearman(_Regression):
    """Spearman's rank correlation of predicted and right numbers; with several targets, its mean over them.

    It is 0 where it is undefined, because all predictions or all references are the same. A text that is no number
    counts as the worst reference of the rows.
    """

    name: Literal["spearman"] = "spearman"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("regression", "text_similarity")

    def _values(self, predicted: Array, right: Array) -> Array:
        from scipy.stats import spearmanr

        return _correlations(predicted, right, lambda a, b: spearmanr(a, b).statistic)

    def _scores(self, predicted: Array, right: Array) -> Array:
        """Ranks stay those among all rows when a row is left out."""
        from scipy.stats import rankdata

        return _pseudo_correlations(rankdata(predicted, axis=0), rankdata(right, axis=0))


class Unparsable(EvaluateMetric):
    """The share of predicted texts that are not as many numbers as there are targets.

    Only models that generate their answers have any.
    """

    name: Literal["unparsable"] = "unparsable"
    kinds: ClassVar[tuple[TaskKind, ...]] = ("regression",)
    higher_is_better: ClassVar[bool] = False
    is_mean_of_examples: ClassVar[bool] = True

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share as ``unparsable``."""
        pairs = zip(predictions, references, strict=True)
        wrong = sum(len(parse_numbers(p) or ()) != len(parse_numbers(texts[0]) or ()) for p, texts in pairs)
        return {self.name: wrong / len(predictions)}


def _read(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[Array, Array]:
    """Return predicted and right numbers, of shape (rows, targets).

    Raises:
        ValueError: A reference is no number, or references have different numbers of targets.
    """
    import numpy as np

    numbers = [parse_numbers(texts[0]) for texts in references]
    for texts, each in zip(references, numbers, strict=True):
        if each is None or len(each) != len(numbers[0] or ()):
            raise ValueError(f"the reference {texts[0]!r} is not a number, or not as many as {references[0][0]!r}")
    right = np.array(numbers, dtype=float)
    smallest, largest = right.min(axis=0), right.max(axis=0)
    worst = np.where(right - smallest > largest - right, smallest, largest)
    predicted = worst.copy()
    for index, text in enumerate(predictions):
        parsed = parse_numbers(text)
        if parsed is not None and len(parsed) == right.shape[1]:
            predicted[index] = parsed
    return predicted, right


def _target_names(number: int, examples: Sequence[Example]) -> Sequence[str]:
    """Return the names of several targets, which are those of ``extra``; none for a single target."""
    if number < 2:
        return ()
    names = [*examples[0].extra] if examples else []
    return names if len(names) == number else [*map(str, range(1, number + 1))]


def _correlations(predicted: Array, right: Array, correlate: Callable[[Any, Any], Any]) -> Array:
    """Return a correlation for each target; 0 where a side is constant."""
    import numpy as np

    def value(column: int) -> float:
        a, b = predicted[:, column], right[:, column]
        if not np.isfinite(a).all():
            return float("nan")
        return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else float(correlate(a, b))

    return np.array([value(column) for column in range(right.shape[1])])


def _pseudo_correlations(predicted: Array, right: Array) -> Array:
    """Return pseudo-values of Pearson's correlation for each row and target (see ``pseudo_values``)."""
    import numpy as np

    from peftkit.metrics.pseudo_values import pseudo_values

    def correlation(sums: Array) -> Array:
        n, a, b, aa, bb, ab = np.moveaxis(sums, -1, 0)
        variances = (n * aa - a * a) * (n * bb - b * b)
        with np.errstate(invalid="ignore", divide="ignore"):
            result: Array = np.where(variances > 0, (n * ab - a * b) / np.sqrt(variances), 0.0)
        return result

    columns = []
    for a, b in zip(predicted.T, right.T, strict=True):
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            columns.append([0.0] * len(a))
            continue
        a, b = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()  # sums of large numbers lose digits
        columns.append(pseudo_values(np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], axis=1), correlation))
    return np.array(columns).T
