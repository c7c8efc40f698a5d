"""Tiny random models of many architectures, with a batch and a run specification for each."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch import Tensor
from transformers import AutoTokenizer

from peftkit.components import ApplyContext, ModelKind, RunSpec
from peftkit.recipe.model_names import BUILT_IN_MODELS, model_config, model_kind, model_path

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
_QWEN_MOE = _LLAMA | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
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
    "decoder": {
        "gpt2": _GPT2,
        **dict.fromkeys(("llama", "qwen2", "gemma2", "phi"), _LLAMA),
        "mixtral": _LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2},
        "qwen2_moe": _QWEN_MOE | {"shared_expert_intermediate_size": 32},
        "qwen3_moe": _QWEN_MOE,
    },
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
"""The number of training steps that methods are given."""


RUN_CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 256},
    **{
        key: {"max_position_embeddings": 256}
        for key in ("bart", "albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta")
    },
}
"""Config changes of tiny models that are used in whole runs, whose texts are longer than the batch."""


def architecture_kind(architecture: str) -> ModelKind:
    """Return the kind of model of an architecture.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.

    Returns:
        ``encoder-decoder``, ``decoder`` or ``encoder``.
    """
    return next(kind for kind, family in FAMILIES.items() if architecture in family)


def tiny_model(architecture: str, *, head_seed: int = 0, **changes: Any) -> tf.PreTrainedModel:
    """Create a random model with a hidden size of 32 in training mode, without dropout.

    The same arguments give the same weights. An encoder is what ``AutoModelForSequenceClassification`` loads from the
    checkpoint of a masked language model.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.
        head_seed: Seed of the parameters that are not in such a checkpoint.
        **changes: Changes to the model's config.

    Returns:
        The model.
    """
    return deepcopy(_original(architecture, head_seed, tuple(sorted(changes.items()))))


@cache
def _original(architecture: str, head_seed: int, changes: tuple[tuple[str, Any], ...]) -> tf.PreTrainedModel:
    """Such a model, which is only copied: that takes a third of the time of building it."""
    if architecture_kind(architecture) != "encoder":
        return _random_model(architecture, _AUTO[architecture_kind(architecture)], 0, dict(changes))
    model = _random_model(architecture, tf.AutoModelForSequenceClassification, 1 + head_seed, dict(changes))
    model.load_state_dict(
        _random_model(architecture, tf.AutoModelForMaskedLM, 0, dict(changes)).state_dict(), strict=False
    )
    return model


@cache
def head_parameters(architecture: str) -> tuple[str, ...]:
    """Return the parameters of a tiny encoder's classification head.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.

    Returns:
        The names of the parameters; empty for other kinds of model.
    """
    if architecture_kind(architecture) != "encoder":
        return ()
    checkpoint = _random_model(architecture, tf.AutoModelForMaskedLM, 0, {}).state_dict()
    return tuple(name for name, _ in tiny_model(architecture).named_parameters() if name not in checkpoint)


def _random_model(architecture: str, auto: Any, seed: int, changes: dict[str, Any]) -> tf.PreTrainedModel:
    config = tf.AutoConfig.for_model(
        architecture, **(FAMILIES[architecture_kind(architecture)][architecture] | changes)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: tf.PreTrainedModel = auto.from_config(config).train()
        with torch.no_grad():
            for parameter in model.parameters():  # some methods would have no effect on zero biases
                if parameter.ndim == 1:
                    parameter += 0.1 * torch.randn_like(parameter)
        return model


def save_tiny_model(architecture: str, folder: Path) -> Path:
    """Save a tiny model and a built-in tokenizer as a hub folder; an encoder is saved as a masked language model.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.
        folder: Where to save it.

    Returns:
        The folder.
    """
    kind = architecture_kind(architecture)
    built_in = next(name for name in BUILT_IN_MODELS if model_kind(model_config(name)) == kind)
    tokenizer = AutoTokenizer.from_pretrained(model_path(built_in))
    tf.utils.logging.disable_progress_bar()
    auto = tf.AutoModelForMaskedLM if kind == "encoder" else _AUTO[kind]
    changes = {"vocab_size": len(tokenizer), **RUN_CONFIGS.get(architecture, {})}
    _random_model(architecture, auto, 0, changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def context(architecture: str, seed: int = 7, *, gradient_checkpointing: bool = False) -> ApplyContext:
    """Return the context for applying a method to a tiny model.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.
        seed: Seed of the method's new weights.
        gradient_checkpointing: Whether activations are recomputed.

    Returns:
        The context of a classification run with ``STEPS`` steps.
    """
    return ApplyContext(
        model_kind=architecture_kind(architecture),
        task_kind="classification",
        seed=seed,
        steps=STEPS,
        gradient_checkpointing=gradient_checkpointing,
        head_parameters=head_parameters(architecture),
    )


def run_spec(architecture: str, *, gradient_checkpointing: bool = False, mixed_precision: str = "no") -> RunSpec:
    """Return the run specification of a classification run with a tiny model.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.
        gradient_checkpointing: Whether activations are recomputed.
        mixed_precision: ``no``, ``bf16`` or ``fp16``.

    Returns:
        The run specification.
    """
    return RunSpec(
        model_kind=architecture_kind(architecture),
        task_kind="classification",
        gradient_checkpointing=gradient_checkpointing,
        mixed_precision=mixed_precision,
        config=_original(architecture, 0, ()).config.to_dict(),
    )


def batch(architecture: str) -> dict[str, Tensor]:
    """Create a batch of four rows of different lengths, padded on the right, or on the left for a decoder.

    Args:
        architecture: The architecture, a key of a family in ``FAMILIES``.

    Returns:
        ``input_ids`` and ``attention_mask`` of shape (4, 8), and ``labels`` of shape (4,) for an encoder, (4, 8) for a
        decoder and (4, 5) for an encoder-decoder. A decoder also has ``position_ids`` of shape (4, 8).
    """
    generator = torch.Generator().manual_seed(1)
    kind = architecture_kind(architecture)
    ids = torch.randint(3, VOCABULARY, (4, 8), generator=generator)
    mask = torch.ones_like(ids)
    for row, pad in ((1, 3), (2, 1)):
        mask[row, slice(0, pad) if kind == "decoder" else slice(8 - pad, 8)] = 0
    ids = ids * mask
    tensors = {"input_ids": ids, "attention_mask": mask}
    if kind == "encoder":
        return tensors | {"labels": torch.tensor([0, 1, 2, 1])}
    if kind == "decoder":
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        return tensors | {"position_ids": positions, "labels": ids.masked_fill(mask == 0, -100)}
    return tensors | {"labels": torch.randint(3, VOCABULARY, (4, 5), generator=generator)}
