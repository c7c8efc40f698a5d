"""Token ids of prompts and targets equal those of the whole text, with any tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, T5Config

from peftkit import Example, RowError
from peftkit.models import CausalLM, Seq2SeqLM
from peftkit.models.special_tokens import decode_exactly, token_ids
from peftkit.testing.tokenizers import TOKENIZER_CASES, tokenizer
from tests.models.conftest import IDS, TEXTS, family_for


@pytest.mark.parametrize(("make", "frame"), TOKENIZER_CASES, ids=IDS)
@settings(deadline=None, max_examples=40)
@given(source=TEXTS, target=TEXTS, join=st.sampled_from([" ", " ", "", "\n"]))
def test_a_decoders_prompt_and_target_are_the_whole_text(
    make: str, frame: str, source: str, target: str, join: str
) -> None:
    decoder = family_for(CausalLM, make, frame)
    tok = decoder.tokenizer
    (prompt,) = (r["source"] for r in decoder.tokenize_completions([Example(source, "")], ranked=False))
    try:
        (row,) = decoder.tokenize_completions([Example(source, target)], ranked=False, join=join)
    except RowError as error:
        refused = "cannot follow" in str(error)
        unknown = tok.unk_token_id in token_ids(tok, [target], special=False)[0] and "no token" in str(error)
        assert refused or unknown or "</s>" in target or not _kept(tok, source + join, target)
        return
    (ids,) = row["candidates"]
    assert row["source"] == prompt  # as in prediction
    assert ids[-1] == tok.eos_token_id
    assert tok.eos_token_id not in ids[:-1]
    assert prompt.count(tok.bos_token_id) <= 1 or "<s>" in source
    if target:
        (whole,) = token_ids(tok, [f"{source}{join}{target}"], special=False)
        if whole[-1:] == [tok.eos_token_id] and "</s>" in target:
            whole = whole[:-1]
        (source_ids,) = token_ids(tok, [source], special=False)
        repeated = min(map(decoder.special_tokens.count_repeated, (whole, source_ids)))
        frame_ids = [*decoder.special_tokens.prefix, *whole[repeated:]]
        read_back, expected_text = decode_exactly(tok, [*prompt, *ids[:-1]]), decode_exactly(tok, frame_ids)
        if not source_ids:  # only the start token
            expected_text = decode_exactly(tok, [*prompt, *whole])
        assert read_back == expected_text


def _kept(tok: Any, source: str, target: str) -> bool:
    """Whether the tokens of the whole text include some of the target."""
    (both,), (alone,) = (token_ids(tok, [text], special=False) for text in (f"{source}{target}", source.rstrip()))
    return bool(target.strip()) and len(both) > len(alone) + 1


@pytest.mark.parametrize(("make", "frame"), TOKENIZER_CASES, ids=IDS)
@settings(deadline=None, max_examples=15)
@given(source=TEXTS, target=TEXTS)
def test_an_encoder_decoders_source_and_target_are_whole_texts(make: str, frame: str, source: str, target: str) -> None:
    both = family_for(Seq2SeqLM, make, frame)
    tok = both.tokenizer
    (text,) = token_ids(tok, [target], special=False)
    try:
        (row,) = both.tokenize_completions([Example(source, target)], ranked=False)
    except RowError:
        nothing = not both.special_tokens.wrap(token_ids(tok, [source], special=False)[0])
        has_prefix_token = any(token in target for token in ("<s>", "[CLS]", "<extra>"))  # prefixes of the templates
        assert "</s>" in target or not decode_exactly(tok, text).strip() or nothing or has_prefix_token
        return
    (ids,) = row["candidates"]
    assert ids[-1] == tok.eos_token_id
    assert tok.eos_token_id not in ids[:-1]
    texts = [text, text[:-1]]
    texts += map(both.special_tokens.strip_prefix, [*texts])
    assert ids[:-1] in [[*both.special_tokens.prefix, *each] for each in texts]
    assert row["source"] == both.special_tokens.wrap(token_ids(tok, [source], special=False)[0])


@pytest.mark.parametrize("cls", [CausalLM, Seq2SeqLM])
def test_a_source_that_ends_with_the_end_of_text_keeps_it(cls: Any) -> None:
    model = family_for(cls, "byte-level", "eos")
    (row,) = model.tokenize_completions([Example("is it good?</s>", "yes")], ranked=False)
    end = model.tokenizer.eos_token_id
    assert row["source"].count(end) == (1 if cls is CausalLM else 2)
    assert model.tokenizer.decode(row["candidates"][0]).strip() == "yes</s>"


@pytest.mark.parametrize("cls", [CausalLM, Seq2SeqLM])
@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("a", "yes</s> no", "'yes</s> no' contains the end-of-text token '</s>', where a model would stop"),
        ("a", "yes</s></s>", "'yes</s></s>' contains the end-of-text token '</s>'"),
    ],
)
def test_the_end_of_text_within_a_target_is_an_error(cls: Any, source: str, target: str, words: str) -> None:
    with pytest.raises(RowError, match=r"^target: ") as raised:
        family_for(cls, "byte-level", "bos").tokenize_completions([Example(source, target)], ranked=False)
    assert words in str(raised.value)


@pytest.mark.parametrize("cls", [CausalLM, Seq2SeqLM])
def test_a_special_token_in_a_generated_target_is_an_error(cls: Any) -> None:
    example = Example("a", "good <extra> x")
    with pytest.raises(RowError, match="'good <extra> x' contains the special token '<extra>'"):
        family_for(cls, "byte-level", "bos").tokenize_completions([example], ranked=False, generated=True)
    family_for(cls, "byte-level", "bos").tokenize_completions([example], ranked=False)


UNKNOWN = ("wordpiece", "words", "unigram, always", "bpe, never, over blanks", "llama without bytes")
"""Tokenizers that do not have all characters."""


@pytest.mark.parametrize("make", UNKNOWN)
@pytest.mark.parametrize("cls", [CausalLM, Seq2SeqLM])
def test_a_target_of_unknown_tokens_is_an_error(cls: Any, make: str) -> None:
    model = family_for(cls, make, "none")
    for target in ("☃", "☃ ☃☃"):
        with pytest.raises(RowError, match="has no token in the model's vocabulary"):
            model.tokenize_completions([Example("the robin", target)], ranked=False, generated=True)
    partly, wholly = model.tokenize_completions(
        [Example("the robin", t) for t in ("good ☃", "good")], ranked=False, generated=True
    )
    assert model.contains_unk(partly["candidates"][0])
    assert not model.contains_unk(wholly["candidates"][0])


@pytest.mark.parametrize("cls", [CausalLM, Seq2SeqLM])
def test_a_target_without_tokens_is_an_error(cls: Any) -> None:
    with pytest.raises(RowError, match="target: '\u0301' has no token in the model's vocabulary"):
        family_for(cls, "unigram, no accents", "none").tokenize_completions([Example("a", "\u0301")], ranked=False)


@pytest.mark.parametrize("named", [{}, {"pad_token": "</s>"}, {"pad_token": None}], ids=["own", "eos", "none"])
@pytest.mark.parametrize("cls", [CausalLM, Seq2SeqLM])
def test_the_end_of_text_is_trained_even_if_it_pads(cls: Any, named: Any) -> None:
    config = (GPT2Config if cls is CausalLM else T5Config)(vocab_size=999, pad_token_id=1, decoder_start_token_id=1)
    model = cls(tokenizer("byte-level", "none", **named), config, 64, 64)
    examples = [Example("a robin", "good"), Example("x", "a steam locomotive and water")]
    rows = model.tokenize_completions(examples, ranked=False, generated=True)
    labels = model.collate(rows)["labels"]
    for row, line in zip(rows, labels.tolist(), strict=True):
        assert [i for i in line if i != -100] == row["candidates"][0]
