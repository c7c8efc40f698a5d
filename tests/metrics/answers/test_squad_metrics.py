"""The scores of SQuAD's official scripts."""

from __future__ import annotations

import random
from typing import Any

import pytest

from peftkit import Example
from peftkit.metrics import Squad
from peftkit.metrics.answers.squad_metrics import normalize_answer

ROWS = [
    # prediction, answers, exact match, F1
    ("the Eiffel Tower!", ["Eiffel tower"], 100, 100),
    ("in 1999", ["1999", "the year 1999"], 0, 200 / 3),
    ("Saint Bernadette", ["Saint Bernadette Soubirous"], 0, 80),
    ("a b b", ["b b c"], 0, 80),
    ("x", ["y"], 0, 0),
    ("", [""], 100, 100),
    ("x", [""], 0, 0),
    ("", ["x"], 0, 0),
]


@pytest.mark.parametrize(("prediction", "answers", "exact", "f1"), ROWS)
def test_examples_of_the_official_script(prediction: str, answers: list[str], exact: float, f1: float) -> None:
    values = Squad().compute([prediction], [answers], [Example("q", answers[0])])
    assert values == {"squad_exact_match": pytest.approx(exact), "squad_f1": pytest.approx(f1)}


def test_normalization() -> None:
    assert normalize_answer("  The  U.S. has an  'A'-team; anaconda ") == "us has ateam anaconda"


def test_scores_are_means_of_rows_and_versions_differ_without_words() -> None:
    predictions, answers = [row[0] for row in ROWS], [row[1] for row in ROWS]
    examples = [Example("q", "x")] * len(ROWS)
    values, each = (
        Squad().compute(predictions, answers, examples),
        Squad().compute_per_example(predictions, answers, examples),
    )
    for key, value in values.items():
        assert sum(one[key] for one in each) / len(each) == pytest.approx(value)
    assert Squad(version="1.1").compute(["The"], [["a"]], examples[:1]) == {"squad_exact_match": 100, "squad_f1": 0}
    assert Squad().compute(["x"], [["The", "x y"]], examples[:1])["squad_f1"] == pytest.approx(200 / 3)


def test_scores_equal_those_of_the_script_in_transformers() -> None:
    reason = "transformers 5 has no copy of SQuAD's evaluate-v2.0.py; CI runs this test with transformers 4.57"
    script: Any = pytest.importorskip("transformers.data.metrics.squad_metrics", reason=reason)
    rng, words = random.Random(0), ["the", "a", "An", "sea", "Sea.", "U.S.", "leaf", "-", "leaf's", "  "]
    for _ in range(200):
        prediction, *answers = (" ".join(rng.choices(words, k=rng.randint(0, 4))) for _ in range(3))
        values = Squad().compute([prediction], [answers], [Example("q", "x")])
        gold = [answer for answer in answers if script.normalize_answer(answer)] or [""]
        assert values["squad_exact_match"] == 100 * max(script.compute_exact(answer, prediction) for answer in gold)
        assert values["squad_f1"] == pytest.approx(100 * max(script.compute_f1(answer, prediction) for answer in gold))
