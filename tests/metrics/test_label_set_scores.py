"""Metrics of sets of labels: equal to those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from peftkit import Example
from peftkit.answer_texts.label_sets import join_labels, label_extra, split_labels
from peftkit.metrics import ExactSet, MeanAveragePrecision, MultiLabelF1, UnknownLabels

LABELS = ("joy", "fear", "anger", "grief")
EXAMPLES = [Example("q", "", extra=label_extra(LABELS, "none"))] * 60
RNG = np.random.default_rng(1)
RIGHT = RNG.random((60, 4)) < np.array([0.5, 0.3, 0.2, 0.0])
PROBABILITIES = (RIGHT * 0.3 + RNG.random((60, 4)) * 0.7).round(3)
PREDICTED = PROBABILITIES > 0.5


def texts(sets: np.ndarray) -> list[str]:
    return [join_labels((n for n, is_in in zip(LABELS, line, strict=True) if is_in), LABELS, "none") for line in sets]


REFERENCES = [[text] for text in texts(RIGHT)]


def test_f1_is_that_of_scikit_learn() -> None:
    values = MultiLabelF1().compute(texts(PREDICTED), REFERENCES, EXAMPLES)
    expected = {f"f1_{a}": f1_score(RIGHT, PREDICTED, average=a, zero_division=0) for a in ("micro", "macro")}
    assert values == pytest.approx(expected)
    per_example = MultiLabelF1().compute_per_example(texts(PREDICTED), REFERENCES, EXAMPLES)
    for key, value in expected.items():
        assert sum(scores[key] for scores in per_example) / 60 == pytest.approx(value)


def test_mean_average_precision_is_that_of_scikit_learn_without_absent_labels() -> None:
    probabilities = [dict(zip(LABELS, line, strict=True)) for line in PROBABILITIES.tolist()]
    expected = average_precision_score(RIGHT[:, :3], PROBABILITIES[:, :3], average="macro")
    assert MeanAveragePrecision().compute(probabilities, REFERENCES, EXAMPLES) == {  # type: ignore[arg-type]
        "mean_average_precision": pytest.approx(expected)
    }


def test_the_share_of_exact_sets_and_of_unknown_labels() -> None:
    references, examples = [["joy, fear"], ["none"], ["anger"]], EXAMPLES[:3]
    predictions = ["fear, joy", "none", "anger, mirth"]
    assert ExactSet().compute(predictions, references, examples) == {"exact_set": pytest.approx(2 / 3)}
    assert UnknownLabels().compute(predictions, references, examples) == {"unknown_labels": pytest.approx(1 / 3)}
    assert MultiLabelF1().compute(predictions, references, examples)["f1_micro"] == pytest.approx(6 / 7)


def test_texts_of_labels_are_sorted_and_split() -> None:
    assert join_labels(["mirth", "fear", "joy"], LABELS, "none") == "joy, fear, mirth"
    assert join_labels([], LABELS, "none") == "none"
    assert split_labels(" fear,joy ,, joy", "none") == {"fear", "joy"}
    assert split_labels("none", "none") == split_labels("", "none") == frozenset()
