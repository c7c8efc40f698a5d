"""Scores of several samples of an answer."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from peftkit import Example
from peftkit.components.types import RunSpec
from peftkit.metrics import ExtractedMatch, MajorityAtK, PassAtK, Unextractable

EXAMPLE = Example("", "7")


def score(metric: Any, samples: list[str], reference: str = "#### 7") -> dict[str, float]:
    return metric.compute([samples], [[reference]], [EXAMPLE])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("samples", "right"),
    [
        (["7", "8", "7"], 1),
        (["8", "7", "8"], 0),
        (["8", "7"], 0),  # the first of equally frequent answers
        (["7", "8"], 1),
        (["8", "7.0", "$7", "8", "14/2"], 1),  # equal answers vote together
        (["none", "so it is 7", "no idea"], 1),  # no answer is no vote
        (["none", "none"], 0),
    ],
)
def test_the_most_frequent_answer_wins(samples: list[str], right: float) -> None:
    assert score(MajorityAtK(k=len(samples)), samples) == {f"maj@{len(samples)}": right}


def test_the_first_samples_vote() -> None:
    assert score(MajorityAtK(k=(1, 3)), ["8", "7", "7"]) == {"maj@1": 0, "maj@3": 1}


def test_formulas_vote_together() -> None:
    samples = [r"\boxed{2}", r"\boxed{x(x+1)}", r"\boxed{x^2+x}"]
    assert score(MajorityAtK(k=3, equality="symbolic"), samples, r"\boxed{x+x^2}") == {"maj@3": 1}
    assert score(MajorityAtK(k=3), samples, r"\boxed{x+x^2}") == {"maj@3": 0}


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    subsets = [*combinations(right, k)]
    expected = sum(map(any, subsets)) / len(subsets)
    samples = ["7" if each else "8" for each in right]
    assert score(PassAtK(k=k), samples) == {f"pass@{k}": pytest.approx(expected, abs=1e-12)}


@given(st.lists(st.lists(st.sampled_from(["7", "8", "no"]), min_size=4, max_size=4), min_size=1, max_size=4))
def test_scores_are_means_over_examples(samples: list[list[str]]) -> None:
    examples, references = [EXAMPLE] * len(samples), [["7"]] * len(samples)
    for metric in (PassAtK(k=(1, 2, 4)), MajorityAtK(k=(1, 4))):
        each = metric.compute_per_example(samples, references, examples)  # type: ignore[arg-type]
        whole = metric.compute(samples, references, examples)  # type: ignore[arg-type]
        assert {*whole} == {*metric.value_names}
        assert whole == pytest.approx({key: sum(row[key] for row in each) / len(each) for key in whole})


def test_one_sample_is_enough_for_one() -> None:
    match = ExtractedMatch()
    for text in ("7", "8", "no"):
        right = match.compute([text], [["7"]], [EXAMPLE])["extracted_match"]
        assert score(PassAtK(), [text]) == {"pass@1": right}
        assert score(MajorityAtK(), [text]) == {"maj@1": right}


def test_more_samples_than_there_are_is_refused() -> None:
    spec = RunSpec("decoder", "generation", False, "no", num_return_sequences=4)
    assert PassAtK(k=(1, 4)).incompatible_with(spec) == []
    (reason,) = PassAtK(k=(1, 5)).incompatible_with(spec)
    assert reason == "k = 5 needs as many samples; set evaluate.num_return_sequences = 5, or lower k"


@pytest.mark.parametrize("k", [0, (), (1, 0), -1])
def test_invalid_numbers_of_samples(k: Any) -> None:
    with pytest.raises(ValidationError):
        MajorityAtK(k=k)


def test_the_share_without_an_answer_is_a_companion() -> None:
    for metric in (ExtractedMatch, MajorityAtK, PassAtK):
        assert metric(extract=("boxed",)).companions() == (Unextractable(extract=("boxed",)),)
