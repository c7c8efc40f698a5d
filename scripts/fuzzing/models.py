"""Tiny models of 28 architectures, saved in the format of the Hub."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from peftkit.components import ModelKind
from peftkit.testing.tiny_models import FAMILIES

_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_MAX_POSITIONS = 256


@dataclass(frozen=True)
class Architecture:
    """A kind of model, and the options of its config that make it tiny."""

    kind: ModelKind
    config: dict[str, Any] = field(default_factory=dict)


_BART: dict[str, Any] = {**FAMILIES["encoder-decoder"]["bart"], "activation_dropout": 0.0, "attention_dropout": 0.0}
_MORE: dict[str, Architecture] = {
    "mbart": Architecture("encoder-decoder", _BART),
    "pegasus": Architecture("encoder-decoder", _BART),
    "blenderbot-small": Architecture("encoder-decoder", _BART),
    "opt": Architecture(
        "decoder",
        {
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 32,
            "dropout": 0.0,
        },
    ),
    "gpt_neox": Architecture("decoder", {**_SIZES, "hidden_dropout": 0.0, "attention_dropout": 0.0}),
    "bloom": Architecture(
        "decoder", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    ),
    "gptj": Architecture(
        "decoder",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "rotary_dim": 4,
            "n_positions": _MAX_POSITIONS,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
    "mistral": Architecture("decoder", {**_SIZES, "num_key_value_heads": 2, "sliding_window": 16}),
    "qwen3": Architecture("decoder", {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}),
    "olmo2": Architecture("decoder", {**_SIZES, "num_key_value_heads": 2}),
    "camembert": Architecture("encoder", FAMILIES["encoder"]["roberta"]),
}
ARCHITECTURES: dict[str, Architecture] = {
    **{name: Architecture(kind, config) for kind, family in FAMILIES.items() for name, config in family.items()},
    **_MORE,
}
_AUTO = {
    "encoder-decoder": tf.AutoModelForSeq2SeqLM,
    "decoder": tf.AutoModelForCausalLM,
    "encoder": tf.AutoModelForMaskedLM,
}


def draw_architecture(rng: random.Random) -> str:
    """Draw the name of an architecture."""
    return rng.choice(sorted(ARCHITECTURES))


def save_model(name: str, tokenizer: tf.PreTrainedTokenizerBase, folder: Path, rng: random.Random) -> None:
    """Save a model with random weights and its tokenizer; encoders are masked language models."""
    architecture = ARCHITECTURES[name]
    config = dict(architecture.config)
    positions = {
        key: _MAX_POSITIONS for key in ("max_position_embeddings", "n_positions") if key in config or key[0] == "m"
    }
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    if architecture.kind == "encoder-decoder":
        special["decoder_start_token_id"] = rng.choice([tokenizer.pad_token_id, tokenizer.bos_token_id])
        special["forced_eos_token_id"] = None
    config |= special | positions | {"vocab_size": len(tokenizer) + rng.choice([0, 0, 5])}
    if name == "modernbert":
        config |= {"cls_token_id": tokenizer.bos_token_id, "sep_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.randint(0, 10**6))
        model = _AUTO[architecture.kind].from_config(tf.AutoConfig.for_model(name, **config))
        with torch.no_grad():
            # With weights near 0.02 all texts are equally likely; with weights near 1 training is chaotic.
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(min(2.0, 0.1 / max(parameter.std().item(), 1e-3)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
