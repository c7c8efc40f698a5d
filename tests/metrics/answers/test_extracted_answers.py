"""Scores of extracted answers."""

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

SOLUTION = "Ann has 3 eggs and finds 4. 3 + 4 = 7.\n#### 7"


def score(metric: ExtractedMatch | Unextractable, prediction: str, reference: str = SOLUTION) -> float:
    return metric.compute([prediction], [[reference]], [Example("", reference)])[metric.name]


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("#### 7", 1),
        ("So she has 7.0 eggs", 1),
        (r"\boxed{7}", 1),
        ("It is 7, not 8", 0),
        ("#### 7\nBy the way, 12 is even.", 1),
        ("seven", 0),
        ("", 0),
    ],
)
def test_the_extracted_answer_is_compared(prediction: str, right: float) -> None:
    assert score(ExtractedMatch(), prediction) == right


def test_several_references_and_rows() -> None:
    metric = ExtractedMatch()
    values = metric.compute(["1", "2"], [["0", "1.0"], ["3"]], [Example("", "0"), Example("", "3")])
    assert values == {"extracted_match": 0.5}
    assert metric.compute_per_example(["1", "2"], [["1"], ["3"]], [Example("", "1"), Example("", "3")]) == [
        {"extracted_match": 1.0},
        {"extracted_match": 0.0},
    ]


def test_the_share_without_an_answer() -> None:
    assert score(Unextractable(), "no idea") == 1
    assert score(Unextractable(), "3") == 0
    assert score(Unextractable(extract=("hash",)), "3") == 1


def test_a_pattern_takes_its_group_or_the_whole_match() -> None:
    assert score(ExtractedMatch(pattern=r"answer: (\w+)"), "answer: x, answer: seven", "seven") == 1
    assert score(ExtractedMatch(pattern=r"\b[a-z]+\b"), "one two", "two") == 1
    assert score(Unextractable(pattern=r"answer: (\w+)"), "seven") == 1


def test_choices() -> None:
    metric = ExtractedMatch(extract=("choice_letter",), equality="text")
    assert score(metric, "Because of x, the answer is (B).", "B") == 1
    assert score(metric, "A.", "B") == 0


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        (r"\boxed{\frac{1}{2}}", "0.5", 1),
        (r"\boxed{x^2 + 2x + 1}", r"\boxed{(x+1)^2}", 1),
        (r"\boxed{(1,2)}", r"\boxed{(2,1)}", 0),
        (r"\boxed{\frac{1}{3}}", "0.5", 0),
    ],
)
def test_formulas_are_compared_by_math_verify(prediction: str, reference: str, right: float) -> None:
    metric = ExtractedMatch(extract=("boxed",), equality="symbolic")
    assert score(metric, prediction, reference) == right


def test_without_math_verify_formulas_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"symbolic needs math-verify; install peftkit\[math\]"):
        ExtractedMatch(equality="symbolic")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "("}, "is not a regular expression"),
        ({"pattern": "(a)(b)"}, "has 2 groups; at most one"),
        ({"extract": ()}, "must not be empty"),
        ({"extract": ("last",)}, "Input should be"),
    ],
)
def test_invalid_options(options: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExtractedMatch(**options)


def test_references_without_an_answer_are_counted_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    metric = ExtractedMatch(extract=("hash",))
    for _ in range(2):  # at every evaluation
        values = metric.compute(["#### 4", "#### 5", "x"], [["#### 4"], ["5"], ["#### 6"]], [])
        assert values == {"extracted_match": pytest.approx(2 / 3)}
    assert caplog.text.count("extracted_match: 1 of 3 rows have a reference without an answer to extract") == 1


def test_extract_and_pattern_exclude_each_other() -> None:
    assert ExtractedMatch(pattern="x").extract == ("hash", "boxed", "last_number")
    with pytest.raises(ValidationError, match="extract: has no effect, because pattern finds the answer"):
        ExtractedMatch(pattern="x", extract=("hash",))


EXAMPLE = Example("", "7")


def score_samples(metric: Any, samples: list[str], reference: str = "#### 7") -> dict[str, float]:
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
    assert score_samples(MajorityAtK(k=len(samples)), samples) == {f"maj@{len(samples)}": right}


def test_the_first_samples_vote() -> None:
    assert score_samples(MajorityAtK(k=(1, 3)), ["8", "7", "7"]) == {"maj@1": 0, "maj@3": 1}


def test_formulas_vote_together() -> None:
    samples = [r"\boxed{2}", r"\boxed{x(x+1)}", r"\boxed{x^2+x}"]
    assert score_samples(MajorityAtK(k=3, equality="symbolic"), samples, r"\boxed{x+x^2}") == {"maj@3": 1}
    assert score_samples(MajorityAtK(k=3), samples, r"\boxed{x+x^2}") == {"maj@3": 0}


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    subsets = [*combinations(right, k)]
    expected = sum(map(any, subsets)) / len(subsets)
    samples = ["7" if each else "8" for each in right]
    assert score_samples(PassAtK(k=k), samples) == {f"pass@{k}": pytest.approx(expected, abs=1e-12)}


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
        assert score_samples(PassAtK(), [text]) == {"pass@1": right}
        assert score_samples(MajorityAtK(), [text]) == {"maj@1": right}


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
