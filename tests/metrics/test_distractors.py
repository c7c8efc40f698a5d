from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from peftkit import Example
from peftkit.errors import InputError
from peftkit.metrics import (
    AnswerLeakage,
    DistractorAssignment,
    DistractorDistinctness,
    DistractorMatch,
    DistractorNovelty,
)
from peftkit.metrics.distractors import assignment_score, word_f1


def novelty(predictions: list[str], answers: list[str], separator: str = ";") -> float:
    examples = [Example("q", "g", extra={"answer": answer}) for answer in answers]
    metric = DistractorNovelty(separator=separator)
    return metric.compute(predictions, [["g"]] * len(predictions), examples)["distractor_novelty"]


def distinctness(*predictions: str, expected: int = 3) -> float:
    metric = DistractorDistinctness(expected=expected)
    return metric.compute(predictions, [["g"]] * len(predictions), [])["distractor_distinctness"]


def match(prediction: str, *golds: str) -> tuple[float, float, float]:
    values = DistractorMatch().compute([prediction], [golds], [])
    return values["distractor_precision"], values["distractor_recall"], values["distractor_f1"]


@pytest.mark.parametrize(
    ("prediction", "answer", "value"),
    [
        ("cat; dog; cow", "horse", 1),
        ("cat; dog; cow", "dog", 2 / 3),
        ("cat;  THE   dog ;cow", "the Dog", 2 / 3),
        ("dog; dog; cow", "dog", 1 / 3),
        ("dog", "dog", 0),
        ("dogs", "dog", 1),
        ("C++; C#", "C", 1),
        (";; cat ;", "dog", 1),
        ("", "dog", 0),
        (" ; ;", "dog", 0),
    ],
)
def test_novelty(prediction: str, answer: str, value: float) -> None:
    assert novelty([prediction], [answer]) == pytest.approx(value)


def test_novelty_is_a_mean_over_questions() -> None:
    assert novelty(["dog", "cat; dog; cow; ox", ""], ["dog", "dog", "dog"]) == pytest.approx((0 + 3 / 4 + 0) / 3)


@pytest.mark.parametrize("separator", [",", "\n", " | ", "<sep>"])
def test_separator_is_an_option(separator: str) -> None:
    assert novelty([separator.join(["a;b", "dog"])], ["dog"], separator) == 0.5


def test_an_empty_separator_is_rejected() -> None:
    with pytest.raises(ValidationError, match="at least 1 character"):
        DistractorMatch(separator="")


def test_novelty_needs_the_answers() -> None:
    predictions, references = ["a", "b"], [["g"], ["g"]]
    answered, bare = Example("q", "g", extra={"answer": "a"}), Example("q", "g")
    with pytest.raises(InputError, match=r"distractor_novelty needs .*extra\['answer'\]"):
        DistractorNovelty().compute(predictions, references, [answered, bare])
    with pytest.raises(ValueError, match="zip"):
        DistractorNovelty().compute(predictions, references, [answered])


@pytest.mark.parametrize(
    ("prediction", "value"),
    [
        ("cat; dog; cow", 1),
        ("cat; dog; Cat", 2 / 3),
        ("cat; cat; cat", 1 / 3),
        ("cat; dog", 2 / 3),
        ("cat; cat", 1 / 3),
        ("cat", 1 / 3),
        ("", 0),
        ("cat; dog; cow; ox", 1),
        ("cat; dog; cow; cat", 3 / 4),
    ],
)
def test_distinctness_of_three(prediction: str, value: float) -> None:
    assert distinctness(prediction) == pytest.approx(value)


def test_distinctness_expects_the_given_number() -> None:
    assert distinctness("cat; dog", expected=2) == 1
    assert distinctness("cat; dog", "cat", "", expected=4) == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    with pytest.raises(ValidationError):
        DistractorDistinctness(expected=0)


@pytest.mark.parametrize(
    ("prediction", "gold", "values"),
    [
        ("cat; dog; cow", "Cow ; cat;dog", (1, 1, 1)),
        ("cat; ox", "cat; dog; cow", (1 / 2, 1 / 3, 2 / 5)),
        ("cat; cat; cat", "cat; dog; cow", (1, 1 / 3, 1 / 2)),
        ("ox; hen", "cat; dog; cow", (0, 0, 0)),
        ("", "cat; dog; cow", (0, 0, 0)),
        ("cat", "", (0, 0, 0)),
        ("", "", (1, 1, 1)),
    ],
)
def test_match(prediction: str, gold: str, values: tuple[float, float, float]) -> None:
    assert match(prediction, gold) == pytest.approx(values)


def test_match_uses_the_reference_with_the_best_f1() -> None:
    golds = ("cat", "cat; dog; cow; ox", "hen")  # of the F1s 2/4, 4/7 and 0
    assert match("cat; dog; owl", *golds) == pytest.approx((2 / 3, 1 / 2, 4 / 7))


def test_match_with_equal_f1s_does_not_depend_on_reference_order() -> None:
    golds = ("a", "a; b; x; y; z")  # the F1 of a; b; c is 1/2 with both
    assert match("a; b; c", *golds) == match("a; b; c", *reversed(golds)) == pytest.approx((1 / 3, 1, 1 / 2))


def test_match_is_the_mean_over_the_questions() -> None:
    values = DistractorMatch(separator=",").compute(["cat, ox", "dog"], [["cat, dog, cow"], ["dog"]], [])
    means = {"distractor_precision": 3 / 4, "distractor_recall": 2 / 3, "distractor_f1": 7 / 10}
    assert values == pytest.approx(means)


def matched(prediction: str, *references: str) -> dict[str, float]:
    return DistractorAssignment().compute([prediction], [list(references)], [Example("q", references[0])])


def test_assignment_does_not_depend_on_the_order() -> None:
    gold = "the red fox; a blue cat; green"
    assert matched("green; a blue cat; the red fox", gold) == {"distractor_soft": 1.0, "distractor_exact": 1.0}
    values = matched("a red cat; a blue fox; x", gold)
    # greedy would pair "a red cat" with "a blue cat" (2/3) and leave 1/3; so do the others: 1/3 + 2/3, or 2/3 + 1/3
    assert values["distractor_soft"] == pytest.approx((1 / 3 + 2 / 3) / 3)
    assert values["distractor_exact"] == 0.0


def test_missing_and_extra_distractors_cost_the_same() -> None:
    assert matched("a; b", "a; b; c; d") == {"distractor_soft": 0.5, "distractor_exact": 0.5}
    assert matched("a; b; c; d", "a; b") == {"distractor_soft": 0.5, "distractor_exact": 0.5}
    assert matched("", "a") == matched("a", "; ") == {"distractor_soft": 0.0, "distractor_exact": 0.0}
    assert matched("", ";") == {"distractor_soft": 1.0, "distractor_exact": 1.0}


def test_the_best_of_several_references_counts() -> None:
    assert matched("a; b", "x; y", "b; a")["distractor_exact"] == 1.0


@given(st.lists(st.text("ab c", max_size=6), max_size=4), st.lists(st.text("ab c", max_size=6), max_size=4))
def test_assignment_is_optimal(produced: list[str], gold: list[str]) -> None:
    shorter, longer = sorted([produced, gold], key=len)
    best = max(sum(map(word_f1, shorter, chosen)) for chosen in permutations(longer, len(shorter)))
    expected = best / len(longer) if shorter else float(not longer)
    assert assignment_score(produced, gold, word_f1) == pytest.approx(expected)
    assert assignment_score(gold, produced, word_f1) == pytest.approx(expected)


def test_answer_leakage_of_equal_and_containing_distractors() -> None:
    examples = [Example("q", "x", extra={"answer": "New York"})] * 4
    predictions = ["paris; new  york", "the new york times; rome", "newyork; york", ""]
    references = [["x"]] * 4
    assert AnswerLeakage().compute(predictions, references, examples) == {"answer_leakage": 0.25}
    assert AnswerLeakage(contained=True).compute(predictions, references, examples) == {"answer_leakage": 0.5}
    with pytest.raises(InputError, match="needs the correct answer"):
        AnswerLeakage().compute(["a"], [["a"]], [Example("q", "x")])
