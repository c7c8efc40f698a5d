"""The predicted candidate does not depend on the order of the candidates."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from peftkit.candidate_choice import argmax_candidate


@given(st.lists(st.tuples(st.text(), st.floats(allow_infinity=False)), min_size=1, max_size=8), st.randoms())
def test_the_best_candidate_does_not_depend_on_the_order(pairs: list[tuple[str, float]], rng: random.Random) -> None:
    shuffled = list(pairs)
    rng.shuffle(shuffled)
    assert argmax_candidate(*zip(*pairs, strict=True)) == argmax_candidate(*zip(*shuffled, strict=True))


def test_the_candidate_with_the_highest_score_is_predicted() -> None:
    assert argmax_candidate(["a", "b", "c"], [-3.0, -1.0, -2.0]) == "b"
    assert argmax_candidate(["b", "a", "c"], [-1.0, -1.0, -2.0]) == "a"


def test_nan_scores_count_as_lowest() -> None:
    assert argmax_candidate(["a", "b"], [math.nan, -5.0]) == "b"
    assert argmax_candidate(["b", "a"], [math.nan, math.nan]) == "a"
