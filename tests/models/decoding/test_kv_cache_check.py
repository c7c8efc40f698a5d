"""Generated text is what the forward pass predicts, also for models whose cache gives something else."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from peftkit import Example
from peftkit.models import FAMILIES
from peftkit.models.batches.padding import attention_mask, pad_sequences
from peftkit.models.special_tokens import decode_generated
from peftkit.testing.tokenizers import tokenizer

CPU = torch.device("cpu")
SOURCES = ("a", "is granite a stone?", "the steam locomotive runs on coal")
OPTIONS = {"max_new_tokens": 6, "num_beams": 1}
LLAMA = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
T5 = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2}
PROPHET = {
    **{"hidden_size": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64},
    **{"num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 4},
    "num_decoder_attention_heads": 4,
}
M2M = {
    **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64},
}
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "t5": ("encoder-decoder", T5, True),
    "llama": ("decoder", LLAMA, True),
    "prophetnet": ("encoder-decoder", {**PROPHET, "pad_token_id": 0}, False),
    "prophetnet, padding not first": ("encoder-decoder", {**PROPHET, "pad_token_id": 7}, False),
    "m2m_100, start is padding": ("encoder-decoder", {**M2M, "pad_token_id": 2}, False),
}
"""Kind, config and whether the cache gives what the forward pass predicts."""


def setting(name: str) -> tuple[Any, nn.Module]:
    kind, options, _ = MODELS[name]
    tok = tokenizer("byte-level", "none")
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2}
    config = tf.AutoConfig.for_model(name.split(",")[0], vocab_size=len(tok), **{**special, **options})
    family = FAMILIES[kind](tok, config, 64, 32)  # type: ignore[index]
    torch.manual_seed(0)
    model = getattr(tf, family.auto_class).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return family, model


def step_by_step(family: Any, model: nn.Module, source: list[int]) -> list[int]:
    """The tokens of greedy search, with a forward pass over the whole text for each."""
    generated: list[int] = []
    for _ in range(OPTIONS["max_new_tokens"]):
        if family.auto_class == "AutoModelForCausalLM":
            texts = {"input_ids": pad_sequences([source + generated], 0)}
        else:
            start = [family.decoder_start_id, *generated]
            texts = {"input_ids": pad_sequences([source], 0), "decoder_input_ids": pad_sequences([start], 0)}
        mask = attention_mask(texts["input_ids"].tolist())
        generated.append(int(model(**texts, attention_mask=mask, use_cache=False).logits[0, -1].argmax()))
        if generated[-1] == family.eos_id:
            break
    return generated


@pytest.mark.parametrize("name", MODELS)
def test_generated_text_is_what_the_forward_pass_predicts(name: str, caplog: pytest.LogCaptureFixture) -> None:
    family, model = setting(name)
    rows = family.tokenize_completions([Example(source, "no") for source in SOURCES], ranked=False)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        texts = family.generate(model, rows, CPU, **OPTIONS)
        ids = [step_by_step(family, model, row["source"]) for row in rows]
        expected = [decode_generated(family.tokenizer, each, [family.eos_id]) for each in ids]
    assert [text for text, _ in texts] == expected
    assert [tokens for _, tokens in texts] == [len(each) for each in ids]
    assert ("is generated more slowly, since the cache of" in caplog.text) != MODELS[name][2]


def test_a_method_that_generates_something_else_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    family, model = setting("t5")
    rows = family.tokenize_completions([Example(SOURCES[1], "no")], ranked=False)
    training_pass = model.forward

    def forward(*args: Any, **inputs: Any) -> Any:
        output = training_pass(*args, **inputs)
        if inputs.get("encoder_outputs") is not None:  # in generation only
            output.logits = output.logits.flip(-1)
        return output

    model.forward = forward  # type: ignore[method-assign]
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        family.generate(model, rows, CPU, **OPTIONS)
    assert "the generated text may not be what T5ForConditionalGeneration predicts: logits differ by" in caplog.text
