from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from peftkit import Example
from peftkit.metrics import (
    F1,
    Accuracy,
    BalancedAccuracy,
    EvaluateMetric,
    F1Macro,
    MatthewsCorrelation,
    PrecisionMacro,
    RecallMacro,
)

MACROS = (PrecisionMacro, RecallMacro, F1Macro)


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """Warnings of scikit-learn would be printed at every evaluation."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="sklearn")
        yield


def score(metric: EvaluateMetric, predicted: str, right: str, candidates: str = "") -> float:
    """The one value of a metric, for labels of one letter."""
    examples = [Example("q", label, tuple(candidates)) for label in right]
    return metric._compute(list(predicted), [[label] for label in right], examples)[metric.name]


@pytest.mark.parametrize(
    ("metric", "predicted", "right", "value"),
    [  # the examples in scikit-learn's documentation of each function, and their values
        (Accuracy(), "0213", "0123", 0.5),
        (BalancedAccuracy(), "010001", "010010", 0.625),
        (MatthewsCorrelation(), "+-++", "+++-", -1 / 3),
        (PrecisionMacro(), "021001", "012012", 2 / 9),
        (RecallMacro(), "021001", "012012", 1 / 3),
        (F1Macro(), "021001", "012012", 4 / 15),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_values_from_the_documentation_of_scikit_learn(
    metric: EvaluateMetric, predicted: str, right: str, value: float
) -> None:
    assert score(metric, predicted, right) == pytest.approx(value)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abc")), min_size=1, max_size=12))
def test_values_equal_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    predicted, right = ("".join(column) for column in zip(*pairs, strict=True))
    codes = ["abcd".index(label) for label in right], ["abcd".index(label) for label in predicted]
    with warnings.catch_warnings(action="ignore"):
        expected = {
            "accuracy": sklearn.accuracy_score(*codes),
            "balanced_accuracy": sklearn.balanced_accuracy_score(*codes),
            "matthews_correlation": sklearn.matthews_corrcoef(*codes),
            "precision_macro": sklearn.precision_score(*codes, average="macro", zero_division=0),
            "recall_macro": sklearn.recall_score(*codes, average="macro", zero_division=0),
            "f1_macro": sklearn.f1_score(*codes, average="macro", zero_division=0),
        }
        over_four = sklearn.f1_score(*codes, average="macro", zero_division=0, labels=range(4))
    plain = [Accuracy(), BalancedAccuracy(), MatthewsCorrelation(), PrecisionMacro(), RecallMacro(), F1Macro()]
    assert {metric.name: score(metric, predicted, right) for metric in plain} == pytest.approx(expected)
    skipping = [macro(absent_labels="skip") for macro in MACROS]
    scores = {metric.name: score(metric, predicted, right, "abcd") for metric in skipping}
    assert scores == pytest.approx({name: expected[name] for name in scores})
    assert score(F1Macro(), predicted, right, "abcd") == pytest.approx(over_four)


def test_any_of_several_references_counts_as_correct() -> None:
    predictions, references = ["b", "a", "c"], [["a", "b"], ["a"], ["a", "b"]]
    examples = [Example("q", "a", ("a", "b", "c"))] * 3
    assert Accuracy().compute(predictions, references, examples) == {"accuracy": pytest.approx(2 / 3)}
    # labels are b, a and, as c is wrong, the first reference a: recalls 1/2 and 1
    assert BalancedAccuracy().compute(predictions, references, examples) == {"balanced_accuracy": 0.75}


def test_an_absent_candidate_is_scored_zero_or_skipped() -> None:
    for macro in MACROS:
        assert score(macro(), "aabb", "aabb", "abcd") == 0.5
        assert score(macro(absent_labels="skip"), "aabb", "aabb", "abcd") == 1.0
    assert score(BalancedAccuracy(), "aabb", "aabb", "abcd") == 1.0


def test_a_predicted_candidate_without_references_is_not_skipped() -> None:
    # precisions 1, 1 and 0; recalls 1/2, 1 and 0 (without references)
    assert score(PrecisionMacro(absent_labels="skip"), "acbb", "aabb", "abc") == pytest.approx(2 / 3)
    assert score(RecallMacro(absent_labels="skip"), "acbb", "aabb", "abc") == pytest.approx(0.5)
    assert score(BalancedAccuracy(), "acbb", "aabb", "abc") == 0.75


def test_a_prediction_outside_the_candidates_is_wrong_and_not_a_label() -> None:
    assert score(Accuracy(), "axbb", "aabb", "ab") == 0.75
    assert score(PrecisionMacro(), "axbb", "aabb", "ab") == 1.0
    assert score(RecallMacro(), "axbb", "aabb", "ab") == 0.75
    assert score(F1Macro(), "axbb", "aabb", "ab") == pytest.approx((2 / 3 + 1) / 2)
    assert score(BalancedAccuracy(), "axbb", "aabb", "ab") == 0.75
    assert 0 < score(MatthewsCorrelation(), "axbb", "aabb", "ab") < 1
    assert all(score(macro(absent_labels="skip"), "xx", "aa", "ab") == 0 for macro in MACROS)


def test_the_candidates_of_all_examples_are_the_labels() -> None:
    examples = [Example("q", "a", ("a", "b")), Example("q", "a", ("a", "c"))]
    assert RecallMacro().compute(["a", "a"], [["a"], ["a"]], examples) == {"recall_macro": pytest.approx(1 / 3)}


def test_a_reference_outside_the_candidates_is_a_label() -> None:
    assert score(RecallMacro(), "ab", "az", "ab") == pytest.approx(1 / 3)


@pytest.mark.parametrize("predicted", ["aaa", "aba", "bbb"])
def test_a_single_reference_class(predicted: str) -> None:
    share = predicted.count("a") / 3
    assert score(Accuracy(), predicted, "aaa", "ab") == share
    assert score(BalancedAccuracy(), predicted, "aaa", "ab") == share
    assert score(RecallMacro(), predicted, "aaa", "ab") == share / 2
    assert score(MatthewsCorrelation(), predicted, "aaa", "ab") == 0.0


def test_matthews_correlation_ranges_from_minus_1_to_1() -> None:
    assert score(MatthewsCorrelation(), "abab", "abab", "ab") == pytest.approx(1.0)
    assert score(MatthewsCorrelation(), "baba", "abab", "ab") == pytest.approx(-1.0)
    assert score(MatthewsCorrelation(), "aaaa", "abab", "ab") == 0.0


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abx"), st.sampled_from("ab")), min_size=1, max_size=12))
def test_f1_of_a_label_equals_that_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    """The prediction x, which is none of the labels, is wrong."""
    predicted, right = ("".join(column) for column in zip(*pairs, strict=True))
    for positive in "ab":
        expected = sklearn.f1_score([*right], [*predicted], labels=[positive], average="micro", zero_division=0)
        assert score(F1(positive_label=positive), predicted, right, "ab") == pytest.approx(expected)
    assert score(F1(), predicted, right, "ab") == score(F1(positive_label="b"), predicted, right, "ab")


def test_f1_of_counts_is_the_harmonic_mean_of_precision_and_recall() -> None:
    assert score(F1(), "010011", "011011", "01") == pytest.approx(6 / 7)  # precision 1, recall 3/4
    assert score(F1(positive_label="0"), "11", "11", "01") == 0.0


@pytest.mark.parametrize(
    ("positive", "candidates", "words"),
    [
        (None, "abc", "set positive_label, since there are 3 labels: a, b, c"),
        (None, "", "set positive_label, since there are 0 labels: nothing"),
        ("A", "ab", r"positive_label 'A' is none of the labels \(did you mean 'a'\?\): a, b"),
    ],
)
def test_f1_needs_a_positive_label(positive: str | None, candidates: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        score(F1(positive_label=positive), "a", "a", candidates)
