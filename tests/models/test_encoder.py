"""Pairs of texts, and heads that score tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertForQuestionAnswering, BertForTokenClassification

from peftkit import Example
from peftkit.errors import RowError
from peftkit.models.encoder import SequenceClassifier
from peftkit.recipe.resolve import model_path
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
