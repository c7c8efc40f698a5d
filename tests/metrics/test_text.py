from __future__ import annotations

from typing import Any

import pytest
import sacrebleu
from pydantic import ValidationError
from rouge_score.rouge_scorer import RougeScorer

from peftkit.metrics import Bleu, Chrf, Distinct, ExactMatch, Rouge

# the example of sacrebleu's README
SYSTEM = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
FIRST = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
SECOND = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]


def bleu(predictions: list[str], references: list[list[str]], **options: object) -> float:
    return Bleu.model_validate(options).compute(predictions, references, [])["bleu"]


@pytest.mark.parametrize(
    ("prediction", "references", "options", "right"),
    [
        ("a dog", ["a dog"], {}, True),
        ("a dog", ["a cat", "a dog"], {}, True),
        (" a  dog\n", ["a dog"], {}, True),
        ("A dog", ["a dog"], {}, False),
        ("A dog", ["a dog"], {"ignore_case": True}, True),
        ("a dog.", ["a dog"], {"ignore_case": True}, False),
        ("a dog.", ["a “dog”"], {"ignore_punctuation": True}, True),
        ("A dog.", ["a dog"], {"ignore_punctuation": True}, False),
        ("A dog.", ["a dog"], {"ignore_punctuation": True, "ignore_case": True}, True),
        ("", ["a dog"], {}, False),
        ("", [""], {}, True),
    ],
)
def test_exact_match(prediction: str, references: list[str], options: dict[str, bool], right: bool) -> None:
    assert ExactMatch(**options).compute([prediction], [references], []) == {"exact_match": float(right)}


def test_exact_match_is_a_share() -> None:
    assert ExactMatch().compute(["a", "b", "c", "d"], [["a"], ["x", "b"], ["d"], ["c"]], []) == {"exact_match": 0.5}


def test_bleu_of_the_example_of_sacrebleu() -> None:
    score = bleu(SYSTEM, [list(pair) for pair in zip(FIRST, SECOND, strict=True)])
    assert score == sacrebleu.corpus_bleu(SYSTEM, [FIRST, SECOND]).score
    assert score == pytest.approx(48.530827)  # as in its README


def test_bleu_of_different_numbers_of_references() -> None:
    references = [[FIRST[0]], [FIRST[1], SECOND[1]], [FIRST[2], SECOND[2], "He was bitten."]]
    streams = [FIRST, [None, *SECOND[1:]], [None, None, "He was bitten."]]
    assert bleu(SYSTEM, references) == sacrebleu.corpus_bleu(SYSTEM, streams).score
    assert bleu(SYSTEM, references) != bleu(SYSTEM, [[text] for text in FIRST])


def test_bleu_is_computed_over_the_corpus() -> None:
    rows = list(zip(SYSTEM, FIRST, strict=True))
    alone = [bleu([predicted], [[right]]) for predicted, right in rows]
    assert bleu(SYSTEM, [[text] for text in FIRST]) != pytest.approx(sum(alone) / len(alone))


@pytest.mark.parametrize(
    "options",
    [
        {"lowercase": True},
        {"tokenize": "char"},
        {"tokenize": "intl"},
        {"tokenize": "zh"},
        {"tokenize": "none"},
        {"smooth_method": "floor"},
        {"smooth_method": "add-k"},
        {"smooth_method": "none"},
    ],
)
def test_the_options_of_bleu_are_those_of_sacrebleu(options: dict[str, object]) -> None:
    predictions, references = ["the Man had «bitten» him, twice"], ["The man had bitten him twice"]
    expected = sacrebleu.corpus_bleu(predictions, [references], **options)
    assert bleu(predictions, [references], **options) == expected.score


def test_bleu_of_short_texts_needs_effective_order_or_a_lower_order() -> None:
    assert bleu(["red fox"], [["red fox"]]) == 0
    assert bleu(["red fox"], [["red fox"]], effective_order=True) == pytest.approx(100)
    assert bleu(["red fox"], [["red fox"]], max_ngram_order=2) == pytest.approx(100)


@pytest.mark.parametrize("options", [{"max_ngram_order": 0}, {"tokenize": "flores200"}, {"tokenise": "13a"}])
def test_invalid_options_of_bleu_are_rejected(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Bleu.model_validate(options)


def test_rouge_of_the_example_of_rouge_score() -> None:
    # 9 and 8 words: in common the, the, quick, brown, dog, jumps; the quick, quick brown; the quick brown jumps the
    scores = Rouge().compute(
        ["The quick brown dog jumps on the log."], [["The quick brown fox jumps over the lazy dog"]], []
    )
    assert scores == pytest.approx({"rouge1": 12 / 17, "rouge2": 4 / 15, "rougeL": 10 / 17, "rougeLsum": 10 / 17})


@pytest.mark.parametrize("use_stemmer", [True, False])
def test_rouge_is_a_mean_of_the_best_reference(use_stemmer: bool) -> None:
    types = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(types, use_stemmer=use_stemmer)
    references = [[FIRST[0], SECOND[0]], [FIRST[1]], [FIRST[2], SECOND[2], "The men had been biting"]]
    expected = dict.fromkeys(types, 0.0)
    for predicted, right in zip(SYSTEM, references, strict=True):
        for key in types:
            expected[key] += max(scorer.score(text, predicted)[key].fmeasure for text in right) / 3
    assert Rouge(use_stemmer=use_stemmer).compute(SYSTEM, references, []) == pytest.approx(expected)


def test_rouge_stems_words_with_use_stemmer() -> None:
    assert Rouge().compute(["biting dogs"], [["bites dog"]], [])["rouge1"] == 0
    assert Rouge(use_stemmer=True).compute(["biting dogs"], [["bites dog"]], [])["rouge1"] == 1


def test_rouge_lsum_treats_lines_as_sentences() -> None:
    scores = Rouge().compute(["red fox\nblue cat"], [["blue cat\nred fox"]], [])
    assert (scores["rougeL"], scores["rougeLsum"]) == (0.5, 1.0)


def test_rouge_of_empty_and_non_latin_texts_is_zero() -> None:
    for prediction, reference in [("", "a b"), ("a b", ""), ("", ""), ("собака", "собака")]:
        assert set(Rouge().compute([prediction], [[reference]], []).values()) == {0.0}


def test_bleu_of_each_order_equals_sacrebleu() -> None:
    scores = Bleu().compute(SYSTEM, [list(pair) for pair in zip(FIRST, SECOND, strict=True)], [])
    for order in (1, 2, 3, 4):
        expected = sacrebleu.BLEU(max_ngram_order=order).corpus_score(SYSTEM, [FIRST, SECOND]).score
        assert scores[f"bleu{order}"] == expected
    assert scores["bleu"] == scores["bleu4"] < scores["bleu3"] < scores["bleu2"] < scores["bleu1"]
    assert Bleu(max_ngram_order=2).compute(SYSTEM, [[text] for text in FIRST], [])["bleu"] == (
        sacrebleu.BLEU(max_ngram_order=2).corpus_score(SYSTEM, [FIRST]).score
    )


@pytest.mark.parametrize("options", [{}, {"word_order": 2}, {"char_order": 4, "beta": 1}, {"lowercase": True}])
def test_chrf_equals_sacrebleu(options: dict[str, Any]) -> None:
    scores = Chrf(**options).compute(SYSTEM, [list(pair) for pair in zip(FIRST, SECOND, strict=True)], [])
    assert scores == {"chrf": sacrebleu.CHRF(**options).corpus_score(SYSTEM, [FIRST, SECOND]).score}
    one = Chrf(**options).compute(SYSTEM[:2], [[FIRST[0]], [FIRST[1], SECOND[1]]], [])["chrf"]
    streams = [FIRST[:2], [None, SECOND[1]]]
    assert one == sacrebleu.CHRF(**options).corpus_score(SYSTEM[:2], streams).score


def test_distinct_counts_ngrams_over_all_texts() -> None:
    scores = Distinct().compute(["a b a b", "A b"], [["x"], ["x"]], [])
    assert scores == {"distinct1": 2 / 6, "distinct2": 2 / 4, "distinct3": 2 / 2}
    assert Distinct().compute(["", "a"], [["x"], ["x"]], []) == {"distinct1": 1.0, "distinct2": 0.0, "distinct3": 0.0}
