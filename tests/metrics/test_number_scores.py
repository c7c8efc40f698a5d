"""Metrics of numbers: equal to those of scikit-learn and scipy, and resampled example by example."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error

from peftkit import Example
from peftkit.metrics import EvaluateMetric, MeanAbsoluteError, MeanSquaredError, Pearson, Spearman, Unparseable

METRICS: tuple[EvaluateMetric, ...] = (MeanSquaredError(), MeanAbsoluteError(), Pearson(), Spearman())
RNG = np.random.default_rng(0)
RIGHT = RNG.normal(1e6, 3, (40, 2)).round(3)
PREDICTED = (RIGHT + RNG.normal(0, 2, (40, 2))).round(3)
EXAMPLES = [Example("q", "", extra={"valence": "", "arousal": ""})] * 40


def texts(numbers: np.ndarray) -> list[str]:
    return [", ".join(map(str, line)) for line in numbers.tolist()]


def compute(metric: EvaluateMetric, predicted: list[str], right: list[str]) -> dict[str, float]:
    return metric.compute(predicted, [[text] for text in right], [])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_values_are_those_of_the_libraries(metric: EvaluateMetric) -> None:
    values = metric.compute(texts(PREDICTED), [[text] for text in texts(RIGHT)], EXAMPLES)
    library = {
        "mse": lambda a, b: mean_squared_error(b, a),
        "mae": lambda a, b: mean_absolute_error(b, a),
        "pearson": lambda a, b: pearsonr(a, b).statistic,
        "spearman": lambda a, b: spearmanr(a, b).statistic,
    }[metric.name]
    expected = [library(PREDICTED[:, i], RIGHT[:, i]) for i in range(2)]
    assert values == pytest.approx(
        {metric.name: sum(expected) / 2, f"{metric.name}.valence": expected[0], f"{metric.name}.arousal": expected[1]}
    )
    per_example = metric.compute_per_example(texts(PREDICTED), [[text] for text in texts(RIGHT)], EXAMPLES)
    for key, value in values.items():
        assert sum(scores[key] for scores in per_example) / 40 == pytest.approx(value, abs=1e-9)


def test_one_target_has_one_value() -> None:
    assert compute(METRICS[0], ["1", "2"], ["1.5", "2"]) == {"mse": 0.125}
    assert compute(METRICS[2], ["1", "2", "4"], ["1", "2", "4"]) == {"pearson": pytest.approx(1)}


def test_a_text_that_is_no_number_is_the_worst_prediction() -> None:
    right = ["0", "3", "10"]
    assert compute(METRICS[1], ["0", "three", "10"], right) == {"mae": pytest.approx(7 / 3)}
    assert compute(METRICS[1], ["", "3", "1, 2"], right) == {"mae": pytest.approx(20 / 3)}
    references = [[text] for text in right]
    assert MeanSquaredError().compute_per_example(["x", "3", "9"], references, []) == [
        {"mse": 100.0},
        {"mse": 0.0},
        {"mse": 1.0},
    ]
    assert compute(Unparseable(), ["0", "three", "1, 2"], right) == {"unparseable": pytest.approx(2 / 3)}


@pytest.mark.parametrize("metric", METRICS[2:], ids=lambda metric: metric.name)
def test_correlations_of_constants_are_zero(metric: EvaluateMetric) -> None:
    assert compute(metric, ["1", "1"], ["1", "2"]) == {metric.name: 0.0}
    assert compute(metric, ["1"], ["1"]) == {metric.name: 0.0}
    assert metric.compute_per_example(["1", "1"], [["1"], ["2"]], []) == [{metric.name: 0.0}] * 2


def test_what_a_diverged_model_predicts_is_not_a_number() -> None:
    for metric in METRICS:
        assert math.isnan(compute(metric, ["nan", "1"], ["1", "2"])[metric.name])


def test_references_must_be_numbers() -> None:
    with pytest.raises(ValueError, match="the reference 'blue' is not a number"):
        compute(METRICS[0], ["1"], ["blue"])
    with pytest.raises(ValueError, match="the reference '1, 2' is not a number, or not as many as '1'"):
        compute(METRICS[0], ["1", "2"], ["1", "1, 2"])
