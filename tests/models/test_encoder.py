"""Pairs of texts, and heads that score tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from peftkit import Example
from peftkit.errors import RowError
from peftkit.models.encoder import SequenceClassifier
from peftkit.recipe.model_names import model_path
from tests.tiny_runs import tiny

PAIRS = [
    Example("a: sea b: a big leaf", "x", source_pair=("sea", "a big leaf of a tree")),
    Example("a: rose b: ink", "x", source_pair=("a rose that is red", "ink")),
]


@pytest.fixture(scope="module")
def family() -> SequenceClassifier:
    model, name = tiny("encoder")
    return SequenceClassifier(AutoTokenizer.from_pretrained(model_path(name)), model.config, 64, 16)


def test_a_pair_is_read_as_the_tokenizer_joins_it(family: SequenceClassifier) -> None:
    rows = family.tokenize_sources(PAIRS)
    for row, example in zip(rows, PAIRS, strict=True):
        assert example.source_pair is not None
        expected = family.tokenizer(*example.source_pair, return_token_type_ids=True)
        assert row["source"] == expected["input_ids"]
        assert row["segments"] == [expected["token_type_ids"]]
        assert family.tokenizer.sep_token_id in row["source"][1:-1]
    batch = family.collate(rows)
    assert batch["token_type_ids"].shape == batch["input_ids"].shape


def test_pairs_and_single_texts_share_a_batch(family: SequenceClassifier) -> None:
    rows = family.tokenize_sources([PAIRS[0], Example("ink", "x")])
    batch = family.collate(rows)
    assert batch["token_type_ids"][1].tolist() == [0] * batch["input_ids"].shape[1]
    assert rows[1] == family.tokenize_sources([Example("ink", "x")])[0]


def test_a_long_pair_loses_the_end_of_its_longer_text(family: SequenceClassifier) -> None:
    short = replace(family, max_source_length=8)
    [row] = short.tokenize_sources(PAIRS[:1])
    first, second = PAIRS[0].source_pair or ("", "")
    expected: Any = family.tokenizer(first, second, truncation="longest_first", max_length=8)
    assert row["source"] == expected["input_ids"]
    assert row["source_tokens"] == len(family.tokenizer(first, second)["input_ids"]) > 8
    with pytest.raises(RowError, match="max_source_length"):
        replace(family, max_source_length=2).tokenize_sources(PAIRS[:1])


@pytest.mark.parametrize("model_class", [BertForTokenClassification, BertForQuestionAnswering])
def test_scores_of_tokens_do_not_depend_on_padding(family: SequenceClassifier, model_class: Any) -> None:
    torch.manual_seed(0)
    model = model_class(family.config).eval()
    rows = family.tokenize_sources(PAIRS)
    with torch.no_grad():
        together = family.outputs_without_padding_effects(model, family.collate(rows))
        for scores, row in zip(together, rows, strict=True):
            alone = family.outputs_without_padding_effects(model, family.collate([row]))[0]
            assert torch.allclose(scores[: len(row["source"])], alone[: len(row["source"])], atol=1e-5)


def test_symmetric_pairs_have_the_mean_of_both_orders(family: SequenceClassifier) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(family.config).eval()
    symmetric = [replace(example, symmetric=True) for example in PAIRS]
    swapped = [replace(each, source_pair=each.source_pair[::-1]) for each in symmetric if each.source_pair]
    orders = [[replace(each, symmetric=False) for each in side] for side in (symmetric, swapped)]

    def outputs(examples: list[Example]) -> torch.Tensor:
        with torch.no_grad():
            return family.outputs_without_padding_effects(model, family.collate(family.tokenize_sources(examples)))

    expected = (outputs(orders[0]) + outputs(orders[1])) / 2
    assert expected.shape == (2, family.config.num_labels)
    for examples in (symmetric, swapped):
        assert torch.allclose(outputs(examples), expected, atol=1e-5)
    rows = family.tokenize_sources([*symmetric, Example("ink", "x")])
    scores = family.loglikelihoods(model, rows, torch.device("cpu"))
    assert [len(each) for each in scores.loglikelihoods] == [family.config.num_labels] * 3
    [logits, _] = family.logits(model, family.collate(rows))
    assert torch.allclose(logits[:2], expected, atol=1e-5)
