"""Metrics of tagged words, as seqeval computes them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from peftkit import Example
from peftkit.errors import InputError
from peftkit.metrics import EntityF1, TokenAccuracy
from peftkit.tag_schemes import PREFIXES

# The example of seqeval's documentation.
TRUE = ["O O O B-MISC I-MISC I-MISC O", "B-PER I-PER O"]
PREDICTED = ["O O B-MISC I-MISC I-MISC I-MISC O", "B-PER I-PER O"]


def score(metric: EntityF1 | TokenAccuracy, predicted: list[str], true: list[str], scheme: str = "IOB2") -> Any:
    examples = [Example("x", tags, extra={"tag_scheme": scheme}) for tags in true]
    return metric.compute(predicted, [[tags] for tags in true], examples)


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_the_example_of_seqeval(average: Any) -> None:
    values = score(EntityF1(average=average), PREDICTED, TRUE)
    assert values == {"entity_f1": 0.5, "entity_precision": 0.5, "entity_recall": 0.5}
    assert score(TokenAccuracy(), PREDICTED, TRUE)["token_accuracy"] == pytest.approx(0.8)


def test_strict_mode_counts_no_entity_that_breaks_the_scheme() -> None:
    true, predicted = ["B-NP I-NP O"], ["I-NP I-NP O"]  # of seqeval's documentation
    assert score(EntityF1(), predicted, true)["entity_f1"] == 1
    assert score(EntityF1(mode="strict"), predicted, true)["entity_f1"] == 0
    with pytest.raises(InputError, match="needs the scheme"):
        score(EntityF1(mode="strict"), predicted, true, scheme="")


def test_without_entities_scores_are_zero() -> None:
    assert {*score(EntityF1(), ["O O"], ["O O"]).values()} == {0}
    assert {*score(EntityF1(average="macro"), ["O O"], ["B-X O"]).values()} == {0}


def test_parts_of_speech_are_entities_of_one_word() -> None:
    assert score(EntityF1(), ["NOUN VERB"], ["NOUN NOUN"], scheme="none")["entity_f1"] == 0.5


def test_a_sentence_has_a_pseudo_value_and_their_mean_is_the_score() -> None:
    metric = EntityF1()
    examples = [Example("x", tags) for tags in TRUE]
    values = metric.compute_per_example(PREDICTED, [[tags] for tags in TRUE], examples)
    assert sum(v["entity_f1"] for v in values) / 2 == pytest.approx(0.5)
    assert values[1]["entity_f1"] > values[0]["entity_f1"]


def test_words_without_a_predicted_tag_are_outside_of_entities() -> None:
    assert score(EntityF1(), ["B-X"], ["B-X B-X"])["entity_recall"] == 0.5
    assert score(TokenAccuracy(), ["B-X"], ["B-X B-X"])["token_accuracy"] == 0.5


@pytest.mark.parametrize("scheme", PREFIXES)
def test_values_equal_those_of_seqeval_where_it_is_installed(scheme: str) -> None:
    seqeval: Any = pytest.importorskip("seqeval.metrics")
    schemes: Any = pytest.importorskip("seqeval.scheme")
    rng = random.Random(0)
    tags = ["O", *(f"{prefix}-{kind}" for prefix in PREFIXES[scheme] for kind in ("PER", "LOC-CITY"))]
    for _ in range(30):
        true = [[rng.choice(tags) for _ in range(rng.randint(1, 8))] for _ in range(4)]
        predicted = [[tag if rng.random() < 0.6 else rng.choice(tags) for tag in row] for row in true]
        for mode in ("default", "strict"):
            options = {"mode": "strict", "scheme": getattr(schemes, scheme)} if mode == "strict" else {}
            values = score(EntityF1(mode=mode), [*map(" ".join, predicted)], [*map(" ".join, true)], scheme)  # type: ignore[arg-type]
            for name in ("f1", "precision", "recall"):
                expected = getattr(seqeval, f"{name}_score")(true, predicted, **options)
                assert values[f"entity_{name}"] == pytest.approx(expected)
