"""What an objective chooses by dev is applied to every split."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from peftkit import Example
from peftkit.data.tokenized_split import SplitStatistics, TokenizedSplit
from peftkit.errors import RunError
from peftkit.evaluate.evaluator import evaluate
from peftkit.label_sets import label_extra
from peftkit.metrics import MeanAveragePrecision, MultiLabelF1
from peftkit.models import BoundObjective
from peftkit.objectives import MultiLabelHead

EXTRA = label_extra(("a", "b"), "none")


class Probabilities(MultiLabelHead):
    """Predicts the probabilities in the rows."""

    def predict(self, model: Any, rows: Any, examples: Any, context: Any, *, has_targets: bool) -> Any:
        lines = [{"a": row["a"], "b": row["b"]} for row in rows]
        return [{"prediction": "none", "probabilities": line, "loss": 1.0, "tokens": 2} for line in lines]


def split(name: str, *rows: tuple[float, float, str]) -> TokenizedSplit:
    examples = [Example(name, target, extra=EXTRA) for _, _, target in rows]
    tokenized = [{"a": a, "b": b, "source_tokens": 1} for a, b, _ in rows]
    return TokenizedSplit(name, range(len(rows)), examples, tokenized, SplitStatistics([], [], [], []))


@pytest.fixture
def objective() -> BoundObjective:
    context: Any = SimpleNamespace(for_evaluation=lambda device: None)
    return BoundObjective(Probabilities(), SimpleNamespace(), context, "")  # type: ignore[arg-type]


def recipe(*metrics: Any) -> Any:
    return SimpleNamespace(evaluate=SimpleNamespace(batch_size=2), metric=metrics)


def test_the_threshold_of_dev_is_used_on_test(objective: BoundObjective) -> None:
    model, accelerator = torch.nn.Linear(1, 1), Accelerator(cpu=True)
    metrics = recipe(MultiLabelF1(), MeanAveragePrecision())
    dev = split("dev", (0.2, 0.05, "a"), (0.1, 0.3, "b"), (0.05, 0.0, "none"))
    result = evaluate(model, dev, metrics, objective, accelerator, calibrate=True)
    assert result.calibration == {"thresholds": pytest.approx(0.15), "no_label": "none"}
    assert [p["prediction"] for p in result.predictions] == ["a", "b", "none"]
    assert (result.values["f1_micro"], result.values["mean_average_precision"]) == (1.0, 1.0)
    test = split("test", (0.16, 0.9, "a, b"), (0.14, 0.0, "a"))
    calibrated = objective.with_calibration(result.calibration)
    tested = evaluate(model, test, metrics, calibrated, accelerator)
    assert [p["prediction"] for p in tested.predictions] == ["a, b", "none"]
    assert tested.calibration == {}
    assert [p["prediction"] for p in evaluate(model, test, metrics, objective, accelerator).predictions] == ["none"] * 2


def test_a_metric_of_what_is_not_predicted_is_explained(objective: BoundObjective) -> None:
    class Odd(MeanAveragePrecision):
        input = "offsets"

    with pytest.raises(RunError, match="'mean_average_precision' scores 'offsets', which 'multi_label_head' does not"):
        evaluate(torch.nn.Linear(1, 1), split("dev", (0, 0, "a")), recipe(Odd()), objective, Accelerator(cpu=True))
