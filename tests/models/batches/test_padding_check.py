"""Scores and generated text do not depend on padding."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as tf

from peftkit import Example
from peftkit.models import CausalLM, ModelFamily, Seq2SeqLM, SequenceClassifier, TokenizedRow
from peftkit.models.special_tokens import decode_generated
from peftkit.testing.tokenizers import tokenizer

CPU = torch.device("cpu")
EXAMPLES = [
    Example("a", "yes", ("yes", "no", "the steam locomotive")),
    Example("is granite a stone?", "no", ("good", "no")),
    Example("the steam locomotive runs on coal and water, and is seldom seen now", "good", ("good", "bad", "no")),
]
WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
BART = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 128},
    "forced_eos_token_id": None,
}
T5 = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gpt2": (CausalLM, GPT),
    "openai-gpt": (CausalLM, GPT),  # transformers 4 generates without its mask
    "opt": (CausalLM, {"word_embed_proj_dim": 32, "ffn_dim": 64, **WIDE}),
    "llama": (CausalLM, WIDE),
    "bloom": (CausalLM, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "bart": (Seq2SeqLM, BART),
    "t5": (Seq2SeqLM, T5),
    "bert": (SequenceClassifier, WIDE),
    "roberta": (SequenceClassifier, WIDE),
    "fnet": (SequenceClassifier, WIDE),  # it has no mask
}
PADS = {"the tokenizer's": 0, "another": 9, "none": None, "the end": 1, "beyond": 10_000}


def model_of(name: str, pad: int | None) -> tuple[Any, torch.nn.Module]:
    cls, options = KINDS[name]
    tok = tokenizer("byte-level", "none")
    special = {"pad_token_id": pad, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2}
    config = tf.AutoConfig.for_model(name, vocab_size=len(tok), num_labels=1, **special, **options)
    torch.manual_seed(0)
    model = getattr(tf, cls.auto_class).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return cls(tok, config, 64, 32), model


def tokenize(family: ModelFamily) -> list[TokenizedRow]:
    """The rows of the examples with all candidates."""
    if family.can_generate:
        return family.tokenize_completions(EXAMPLES, ranked=True)
    return family.tokenize_pairs(EXAMPLES)


def is_relevant(name: str, pad: str) -> bool:
    """Whether the model supports this padding id and the case adds coverage."""
    if name in ("openai-gpt", "fnet", "bloom"):
        return pad == "the tokenizer's"
    if pad == "beyond":  # the other models would create an embedding of that size
        return name in ("gpt2", "llama", "t5")
    return pad != "none" or name not in ("roberta", "bart", "opt")  # their positions depend on it


@pytest.mark.parametrize(("name", "pad"), [(name, pad) for name in KINDS for pad in PADS if is_relevant(name, pad)])
def test_scores_and_generation_do_not_depend_on_the_batch(name: str, pad: str) -> None:
    number = None if pad == "beyond" else PADS[pad]
    family, model = model_of(name, number)
    if pad == "beyond":
        family.config.pad_token_id = PADS[pad]
    rows = tokenize(family)
    with torch.no_grad():
        together = family.loglikelihoods(model, rows, CPU).loglikelihoods
        for row, scores in zip(rows, together, strict=True):
            assert scores == pytest.approx(family.loglikelihoods(model, [row], CPU).loglikelihoods[0], abs=1e-4)
        if family.can_generate:
            options = {"max_new_tokens": 8, "num_beams": 1}
            texts = family.generate(model, rows, CPU, **options)
            assert texts == [family.generate(model, [row], CPU, **options)[0] for row in rows]


@pytest.mark.parametrize("read", ["input_ids", "decoder_input_ids"])
def test_scores_of_a_model_that_reads_the_padded_length_do_not_depend_on_the_batch(
    read: str, caplog: pytest.LogCaptureFixture
) -> None:
    family, model = model_of("t5" if read == "decoder_input_ids" else "llama", 0)

    def scale(module: Any, args: Any, inputs: Any, output: Any) -> Any:
        output.logits = output.logits * (1 + inputs[read].shape[1] / 10)
        return output

    model.register_forward_hook(scale, with_kwargs=True)
    rows = tokenize(family)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        together = family.loglikelihoods(model, rows, CPU).loglikelihoods
        for row, scores in zip(rows, together, strict=True):
            alone = [{**row, "candidates": [ids], "answer": 0} for ids in row["candidates"]]
            expected = [family.score_without_sharing(model, [one], CPU).loglikelihoods[0][0] for one in alone]  # type: ignore[attr-defined]
            assert scores == pytest.approx(expected, abs=1e-4)
    assert "padding changes the output of" in caplog.text


def test_a_model_that_attends_to_padding_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    family, model = model_of("fnet", 0)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        family.loglikelihoods(model, tokenize(family), CPU)
    assert "padding changes the output of FNetForSequenceClassification" in caplog.text


@pytest.mark.parametrize("cls", [CausalLM, Seq2SeqLM])
def test_decoded_text_ends_at_the_end_of_text(cls: Any) -> None:
    tok = tokenizer("byte-level", "none")
    config = SimpleNamespace(vocab_size=len(tok), pad_token_id=40, decoder_start_token_id=41)
    family = cls(tok, config, 64, 32)
    word = tok("good")["input_ids"]
    ids = torch.tensor([[*word, 1, 40, 40], [*word, 6, 7, 1]])
    assert [decode_generated(tok, each, [family.eos_id]) for each in ids.tolist()] == ["good", "good"]


def test_token_types_of_a_pair_are_those_of_the_tokenizer() -> None:
    tok = tokenizer("wordpiece", "cls+sep")
    config = SimpleNamespace(vocab_size=999, pad_token_id=0)
    row = SequenceClassifier(tok, config, 64, 32).tokenize_pairs(EXAMPLES[:1])[0]
    assert tok.decode(row["candidates"][0]) == "[CLS] a [SEP] yes [SEP]"
    assert row["segments"][0] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_models_without_token_types_get_none(name: str) -> None:
    options = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4} if name == "distilbert" else WIDE
    segments = {"type_vocab_size": 1} if name == "roberta" else {}
    tok = tokenizer("wordpiece", "cls+sep")
    config = tf.AutoConfig.for_model(name, vocab_size=999, num_labels=1, pad_token_id=0, **segments, **options)
    torch.manual_seed(0)
    model = tf.AutoModelForSequenceClassification.from_config(config).eval()
    family = SequenceClassifier(tok, config, 64, 32)
    rows = family.tokenize_pairs(EXAMPLES)
    seen: list[bool] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append("token_type_ids" in kwargs), with_kwargs=True)
    with torch.no_grad():
        family.loglikelihoods(model, rows, CPU)
    assert {*seen} == {name == "bert"}
