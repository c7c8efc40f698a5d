"""What baselines score, as lines in plots."""

from __future__ import annotations

from typing import Any

import pytest

from peftkit.compare.recorded_baselines import mean_baseline_scores, merge_close_labels, recorded_baselines


def summary(**scores: Any) -> dict[str, Any]:
    return {"baselines": {name: {"test": {"accuracy": score}} for name, score in scores.items()}}


def test_only_numbers_that_were_recorded_count() -> None:
    baselines = summary(constant=0.5, random=None)["baselines"] | {"format": 3}
    assert recorded_baselines(baselines, "accuracy", "test") == {"constant": 0.5}
    assert recorded_baselines(baselines, "accuracy", "dev") == {}
    assert recorded_baselines(baselines, "loss", "test") == {}


def test_scores_are_means_over_the_runs_that_record_them() -> None:
    runs = [summary(constant=0.5, random=0.2), summary(constant=0.5, random=0.3), {}, {"baselines": None}]
    found = mean_baseline_scores(runs, "accuracy", "test")
    assert found == {"constant": 0.5, "random": pytest.approx(0.25)}
    assert mean_baseline_scores([{}], "accuracy", "test") == {}


def test_close_lines_share_a_label() -> None:
    scores = {"constant": 0.5, "majority": 0.5, "random": 0.3}
    assert merge_close_labels(scores, 0.1) == [("random", 0.3), ("constant, majority", 0.5)]
    assert merge_close_labels(scores, 0.3) == [("random, constant, majority", 0.5)]
    assert merge_close_labels({}, 0.1) == []
