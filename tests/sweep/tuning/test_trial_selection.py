"""Selection of one of several settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftkit.plugins import load_registry
from peftkit.run_directory import RunDirectory
from peftkit.sweep.tuning.trial_selection import Selector, Trial, TrialResult, read_trial_result


def trial(name: str, right: list[int], loss: float | None, *, seed: int = 0, rows: int = 100) -> Trial:
    """A trial whose predictions are right in the rows of this range."""
    low, high = right
    predictions = [
        {"index": i, "target": "yes", "prediction": "yes" if low <= i < high else "no", "candidates": ["yes", "no"]}
        for i in range(rows)
    ]
    return Trial({"x": name}, seed, "design", TrialResult((high - low) / rows, loss, 1.0, name, predictions))


def chosen(trials: list[Trial], **options: Any) -> str:
    return str(Selector("accuracy", True, **options).rank(trials)[0][0].settings["x"])


def test_the_loss_decides_where_scores_are_too_close() -> None:
    """50 and 48 right of 100 rows, different ones: the scores are within a standard error; the losses differ."""
    ahead, behind = trial("ahead", [0, 50], 2.0), trial("behind", [30, 78], 1.0)
    assert chosen([ahead, behind]) == "behind"
    assert chosen([behind, ahead]) == "behind"


def test_the_score_decides_where_it_differs_enough() -> None:
    """The leader is right in all rows of the other and in more: a paired difference."""
    ahead, behind = trial("ahead", [0, 50], 2.0), trial("behind", [0, 40], 1.0)
    assert chosen([ahead, behind]) == "ahead"
    many = trial("ahead", [0, 5000], 2.0, rows=10_000), trial("behind", [3000, 7800], 1.0, rows=10_000)
    assert chosen([*many]) == "ahead", "the same shares differ significantly with more rows"


def test_of_equal_scores_the_lowest_loss_wins_even_without_predictions() -> None:
    trials = [Trial({"x": n}, 0, "design", TrialResult(0.5, loss, 1.0, n)) for n, loss in (("a", 2.0), ("b", 1.0))]
    assert chosen(trials) == "b"
    trials.append(Trial({"x": "c"}, 0, "design", TrialResult(0.51, 9.0, 1.0, "c")))
    assert chosen(trials) == "c", "without predictions there is no standard error: the score decides"


def test_a_missing_loss_does_not_win_a_tie() -> None:
    assert chosen([trial("a", [0, 50], None), trial("b", [0, 50], 3.0)]) == "b"


def test_settings_are_compared_by_their_means_over_seeds() -> None:
    lucky = [trial("lucky", [0, 90], 1.0), trial("lucky", [0, 10], 1.0, seed=1)]
    steady = [trial("steady", [0, 70], 1.0), trial("steady", [0, 70], 1.0, seed=1)]
    assert chosen([*lucky, *steady]) == "steady"


def test_settings_with_a_failed_run_rank_last() -> None:
    broken = [trial("broken", [0, 90], 1.0), Trial({"x": "broken"}, 1, "repeat", None)]
    whole = [trial("whole", [0, 20], 5.0)]
    assert chosen([*broken, *whole]) == "whole"
    assert chosen(broken) == "broken"
    assert Selector("accuracy", True).rank([Trial({"x": "none"}, 0, "design", None)]) == []


@pytest.mark.parametrize(("higher", "expected"), [(True, "b"), (False, "a")])
def test_the_metrics_direction_is_used(higher: bool, expected: str) -> None:
    trials = [Trial({"x": n}, 0, "design", TrialResult(score, 1.0, 1.0, n)) for n, score in (("a", 0.1), ("b", 0.9))]
    [first, _] = Selector("mae", higher).rank(trials)
    assert first[0].settings == {"x": expected}


def test_scores_that_are_no_means_use_the_jackknife() -> None:
    entry = load_registry().find("metric", "f1_macro")
    metric: Any = entry.component.model_validate({"name": "f1_macro"})

    def f1(name: str, rights: list[int], loss: float) -> Trial:
        one = trial(name, rights, loss)
        assert one.result is not None
        rows = one.result.predictions
        rows = [{**row, "target": "yes" if row["index"] % 2 else "no"} for row in rows]
        rows = [
            {**row, "prediction": row["target"] if rights[0] <= row["index"] < rights[1] else "yes"} for row in rows
        ]
        return Trial(one.settings, 0, "design", TrialResult(one.result.score, loss, 1.0, name, rows))

    selector = Selector(metric.value_names[0], True, (metric,))
    near = selector.rank([f1("ahead", [0, 50], 2.0), f1("behind", [30, 78], 1.0)])
    assert near[0][0].settings == {"x": "behind"}
    far = selector.rank([f1("ahead", [0, 90], 2.0), f1("behind", [0, 20], 1.0)])
    assert far[0][0].settings == {"x": "ahead"}


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_only_finite_dev_scores_of_a_run_are_read(tmp_path: Path, value: float | None) -> None:
    summary = {
        "format": 1,
        "status": "done",
        "selection_metric": "accuracy",
        "selected": {"dev": {"accuracy": value, "loss": value}, "test": {"accuracy": 1.0, "loss": 0.0}},
        "cost": {"gmacs": 3.0},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert read_trial_result(RunDirectory(tmp_path)) == TrialResult(None, None, 3.0, tmp_path.name)
