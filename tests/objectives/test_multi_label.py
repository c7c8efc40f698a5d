"""Multi-label classification: sigmoid heads with thresholds chosen on dev, and generated labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from peftkit import Example
from peftkit.answer_texts.label_sets import join_labels, label_extra
from peftkit.components import Objective
from peftkit.objectives import MultiLabelGeneration, MultiLabelHead
from peftkit.objectives.multi_label import _best_threshold
from peftkit.testing import check_objective
from tests.tiny_runs import ColourSet

LABELS = ("a", "b")
EXHAUSTIVE = (pytest.mark.slow, pytest.mark.exhaustive)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("objective", "architectures"),
    [
        *(
            pytest.param(MultiLabelHead(threshold="per_label"), {"encoder": name}, id=name)
            for name in ("roberta", "distilbert", "modernbert", "deberta-v2", "albert", "electra")
        ),
        pytest.param(MultiLabelGeneration(), {"encoder-decoder": "bart", "decoder": "gpt2"}, id="bart and gpt2"),
        pytest.param(MultiLabelGeneration(), {"encoder-decoder": "t5", "decoder": "qwen2"}, id="t5 and qwen2"),
        pytest.param(MultiLabelGeneration(), {"decoder": "gemma2"}, id="gemma2"),
        pytest.param(MultiLabelGeneration(), {"decoder": "phi"}, id="phi"),
    ],
)
def test_architectures_conform(objective: Objective, architectures: Any, tmp_path: Path) -> None:
    check_objective(objective, ColourSet(), tmp_path, runs=False, architectures=architectures)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("objective", [MultiLabelHead(), MultiLabelGeneration()], ids=lambda each: each.name)
def test_whole_runs_conform(objective: Objective, tmp_path: Path) -> None:
    check_objective(objective, ColourSet(), tmp_path)


def test_constants_to_try_are_the_most_frequent_labels() -> None:
    examples = [Example("x", text) for text in ("several", "blue, several", "none", "green, several")]
    assert MultiLabelHead().possible_answers(ColourSet(), examples) == (
        "none",
        "several",
        "blue, several",
        "green, blue, several",
    )


def test_the_threshold_has_the_highest_f1() -> None:
    rng = np.random.default_rng(3)
    right = rng.random(200) < 0.3
    probabilities = (0.2 * right + 0.4 * rng.random(200)).round(2)
    best = _best_threshold(probabilities, right)
    scores = {t: f1_score(right, probabilities >= t) for t in [best, *np.arange(0.005, 1, 0.01)]}
    assert scores[best] == pytest.approx(max(scores.values()))
    assert _best_threshold(probabilities, right & False) == 0.5
    assert _best_threshold(np.array([1.0, 1.0]), np.array([True, False])) <= 1.0


@pytest.mark.parametrize(("threshold", "chosen"), [("one", 0.3), ("per_label", {"a": 0.5, "b": 0.15})])
def test_thresholds_are_chosen_on_dev_and_applied(threshold: Any, chosen: Any) -> None:
    lines, targets = [(0.6, 0.1), (0.4, 0.2), (0.7, 0.2)], ["a", "b", "a, b"]
    extra = label_extra(LABELS, "none")
    dev = [{"probabilities": dict(zip(LABELS, line, strict=True)), "prediction": ""} for line in lines]
    objective = MultiLabelHead(threshold=threshold)
    calibration = objective.calibrate(dev, [Example("q", text, extra=extra) for text in targets])
    assert calibration["no_label"] == "none"
    if threshold == "per_label":
        assert calibration["thresholds"] == pytest.approx(chosen)
        assert [objective.apply_calibration(p, calibration)["prediction"] for p in dev] == targets
    test = {"probabilities": {"a": 0.01, "b": 0.01}, "prediction": "a"}
    assert objective.apply_calibration(test, calibration)["prediction"] == "none"
    assert "at least its threshold" in objective.describe_outputs(ColourSet(), calibration)
    assert MultiLabelHead(threshold="half").calibrate(dev, []) == {}


def test_unknown_pieces_come_after_the_labels() -> None:
    assert join_labels({"c", "b", "a"}, ("b", "a"), "none") == "b, a, c"
