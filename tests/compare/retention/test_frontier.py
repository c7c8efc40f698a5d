"""The front has the methods that no other surpasses in learning and in forgetting."""

from __future__ import annotations

import numpy as np
import pytest

from peftkit.compare.input.groups import RunGroup
from peftkit.compare.retention.frontier import compare_retention, front_of_two
from peftkit.compare.statistics import Posterior


def posterior(draws: list[list[float]], names: str, *, higher: bool) -> Posterior:
    return Posterior({}, tuple(names), np.array(draws), {}, higher)


def test_the_front_is_that_of_each_draw() -> None:
    """In the first draw b is dominated by a, in the second one it learns most; c forgets least in both."""
    learning = posterior([[0.9, 0.8, 0.1], [0.7, 0.8, 0.1]], "abc", higher=True)
    forgetting = posterior([[0.0, 0.2, 0.3], [0.0, 0.1, 0.2]], "cab", higher=False)
    assert front_of_two(learning, forgetting) == {"a": 1.0, "b": 0.5, "c": 1.0}


def test_lower_scores_may_be_better() -> None:
    learning = posterior([[0.1, 0.5]], "ab", higher=False)
    assert front_of_two(learning, posterior([[0.0, 0.0]], "ab", higher=False)) == {"a": 1.0, "b": 0.0}
    assert front_of_two(posterior([], "", higher=False), posterior([], "", higher=False)) == {}


def test_rows_have_both_axes(probed_group: RunGroup) -> None:
    retention = compare_retention(probed_group, "texts")
    assert {row.method for row in retention.rows} == {"full", "ia3"}
    assert sorted((row.score for row in retention.rows), reverse=True) == [row.score for row in retention.rows]
    for row in retention.rows:
        runs = retention.forgetting.runs[row.method].values()
        assert row.observed == pytest.approx(np.mean([run.forgotten for run in runs]))
        assert row.front is not None
        assert 0 <= row.front <= 1
    assert any(row.on_front for row in retention.rows)
