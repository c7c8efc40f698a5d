"""Tiny random models of many architectures, and a batch for each."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch import Tensor
from transformers import AutoTokenizer

from peftkit.components import Context, ModelKind, Situation
from peftkit.recipe.names import BUILT_IN_MODELS, model_config, model_kind, model_path

VOCABULARY = 64
_SPECIAL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
_BERT = _SPECIAL | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 64,
    "num_labels": 3,
}
_LLAMA = _SPECIAL | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
_T5 = _SPECIAL | {
    "d_model": 32,
    "d_kv": 8,
    "num_heads": 4,
    "d_ff": 64,
    "num_layers": 2,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
_BART = _SPECIAL | {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "dropout": 0.0,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    "max_position_embeddings": 64,
}
_GPT2 = _SPECIAL | {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
_DISTILBERT = _SPECIAL | {
    "dim": 32,
    "hidden_dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "seq_classif_dropout": 0.0,
    "max_position_embeddings": 64,
    "num_labels": 3,
}
_ALBERT = _BERT | {"embedding_size": 16, "num_hidden_groups": 1, "classifier_dropout_prob": 0.0}
_MODERNBERT = _SPECIAL | {
    **{key: _BERT[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")},
    **{"max_position_embeddings": 64, "num_labels": 3, "cls_token_id": 2, "sep_token_id": 1},
    **{"global_attn_every_n_layers": 2, "local_attention": 16, "classifier_dropout": 0.0, "mlp_dropout": 0.0},
}
FAMILIES: dict[ModelKind, dict[str, dict[str, Any]]] = {
    "encoder-decoder": {"t5": _T5, "mt5": _T5, "bart": _BART},
    "decoder": {"gpt2": _GPT2, **dict.fromkeys(("llama", "qwen2", "gemma2", "phi"), _LLAMA)},
    "encoder": {
        "albert": _ALBERT,
        "distilbert": _DISTILBERT,
        "modernbert": _MODERNBERT,
        **dict.fromkeys(("bert", "deberta", "deberta-v2", "electra", "ernie", "roberta", "xlm-roberta"), _BERT),
    },
}
_AUTO = {
    "encoder-decoder": tf.AutoModelForSeq2SeqLM,
    "decoder": tf.AutoModelForCausalLM,
}


STEPS = 10
"""How long a method is told that it will train."""


WHOLE: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 256},
    **{
        key: {"max_position_embeddings": 256}
        for key in ("bart", "albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta")
    },
}
"""Where a tiny model needs room for texts."""


def kind_of(architecture: str) -> ModelKind:
    """Returns the kind of model of an architecture.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.

    Returns:
        ``encoder-decoder``, ``decoder`` or ``encoder``.
    """
    return next(kind for kind, family in FAMILIES.items() if architecture in family)


def tiny(architecture: str, *, head_seed: int = 0, **changes: Any) -> tf.PreTrainedModel:
    """Makes a random model of width 32 in training mode, without dropout; the same arguments give the same weights.

    An encoder is what ``AutoModelForSequenceClassification`` makes of a masked language model's checkpoint.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.
        head_seed: Seed of the parameters that such a checkpoint does not hold.
        **changes: Changes to the model's config.

    Returns:
        The model.
    """
    if kind_of(architecture) != "encoder":
        return _random(architecture, _AUTO[kind_of(architecture)], 0, changes)
    model = _random(architecture, tf.AutoModelForSequenceClassification, 1 + head_seed, changes)
    model.load_state_dict(_random(architecture, tf.AutoModelForMaskedLM, 0, changes).state_dict(), strict=False)
    return model


@cache
def head_parameters(architecture: str) -> tuple[str, ...]:
    """Returns the parameters of a tiny encoder's classification head.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.

    Returns:
        The names of the parameters; empty for other kinds of model.
    """
    if kind_of(architecture) != "encoder":
        return ()
    held = _random(architecture, tf.AutoModelForMaskedLM, 0, {}).state_dict()
    return tuple(name for name, _ in tiny(architecture).named_parameters() if name not in held)


def _random(architecture: str, auto: Any, seed: int, changes: dict[str, Any]) -> tf.PreTrainedModel:
    config = tf.AutoConfig.for_model(architecture, **(FAMILIES[kind_of(architecture)][architecture] | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: tf.PreTrainedModel = auto.from_config(config).train()
        with torch.no_grad():
            for parameter in model.parameters():  # biases begin as zeros, at which some methods would do nothing
                if parameter.ndim == 1:
                    parameter += 0.1 * torch.randn_like(parameter)
        return model


def saved(architecture: str, folder: Path) -> Path:
    """Saves a tiny model and a built-in tokenizer as a hub folder; an encoder is saved as a masked language model.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.
        folder: Where to save it.

    Returns:
        The folder.
    """
    kind = kind_of(architecture)
    built_in = next(name for name in BUILT_IN_MODELS if model_kind(model_config(name)) == kind)
    tokenizer = AutoTokenizer.from_pretrained(model_path(built_in))
    tf.utils.logging.disable_progress_bar()
    auto = tf.AutoModelForMaskedLM if kind == "encoder" else _AUTO[kind]
    changes = {"vocab_size": len(tokenizer), **WHOLE.get(architecture, {})}
    _random(architecture, auto, 0, changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def context(architecture: str, seed: int = 7, *, gradient_checkpointing: bool = False) -> Context:
    """Returns the context that a method is applied to the tiny model in.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.
        seed: Seed of the method's new weights.
        gradient_checkpointing: Whether activations are recomputed.

    Returns:
        The context of a classification run with ``STEPS`` steps.
    """
    return Context(
        model_kind=kind_of(architecture),
        task_kind="classification",
        seed=seed,
        steps=STEPS,
        gradient_checkpointing=gradient_checkpointing,
        head_parameters=head_parameters(architecture),
    )


def situation(architecture: str, *, gradient_checkpointing: bool = False, mixed_precision: str = "no") -> Situation:
    """Returns the facts that a method's refusals are evaluated on for the tiny model.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.
        gradient_checkpointing: Whether activations are recomputed.
        mixed_precision: ``no``, ``bf16`` or ``fp16``.

    Returns:
        The situation of a classification run.
    """
    return Situation(
        model_kind=kind_of(architecture),
        task_kind="classification",
        gradient_checkpointing=gradient_checkpointing,
        mixed_precision=mixed_precision,
        config=tiny(architecture).config.to_dict(),
    )


def batch(architecture: str) -> dict[str, Tensor]:
    """Makes four rows of different lengths, padded on the right, or on the left for a decoder.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.

    Returns:
        ``input_ids`` and ``attention_mask`` of shape (4, 8), and ``labels`` of shape (4,) for an encoder, (4, 8) for a
        decoder and (4, 5) for an encoder-decoder. A decoder has ``position_ids`` of shape (4, 8) too.
    """
    generator = torch.Generator().manual_seed(1)
    kind = kind_of(architecture)
    ids = torch.randint(3, VOCABULARY, (4, 8), generator=generator)
    mask = torch.ones_like(ids)
    for row, pad in ((1, 3), (2, 1)):
        mask[row, slice(0, pad) if kind == "decoder" else slice(8 - pad, 8)] = 0
    ids = ids * mask
    found = {"input_ids": ids, "attention_mask": mask}
    if kind == "encoder":
        return found | {"labels": torch.tensor([0, 1, 2, 1])}
    if kind == "decoder":
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        return found | {"position_ids": positions, "labels": ids.masked_fill(mask == 0, -100)}
    return found | {"labels": torch.randint(3, VOCABULARY, (4, 5), generator=generator)}
