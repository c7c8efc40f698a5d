"""The interval of a proportion."""

from __future__ import annotations

import math

import pytest

from peftkit.evaluate.wilson_interval import wilson_interval


@pytest.mark.parametrize(("successes", "examples"), [(0, 1), (1, 1), (0, 40), (7, 10), (45, 100), (999, 1000)])
def test_the_ends_are_the_proportions_that_the_score_test_just_accepts(successes: int, examples: int) -> None:
    share = successes / examples
    for end in wilson_interval(successes, examples):
        assert 0 <= end <= 1
        distance = abs(share - end) * math.sqrt(examples)
        assert distance == pytest.approx(1.959964 * math.sqrt(end * (1 - end)), abs=1e-5)
    low, high = wilson_interval(successes, examples)
    assert low <= share <= high
    assert low < high
