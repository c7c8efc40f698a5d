"""Architectures that need texts of certain lengths, or read short and long texts in different ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peftkit.errors import Problem, RecipeError, RowError

SHORTEST: Mapping[str, Callable[[Any], int]] = {
    # Funnel pools pairs of tokens between its blocks, and at least two states must be left beside [CLS].
    "funnel": lambda config: int(2 ** (len(config.block_sizes) - 1)) + 1,
    # CANINE's strided convolution leaves nothing of fewer characters.
    "canine": lambda config: int(config.downsampling_rate),
}
"""Number of tokens of the shortest text that a model type reads; the others read single tokens."""
CHUNKS: Mapping[str, str] = {"lsh": "lsh_attn_chunk_length", "local": "local_attn_chunk_length"}
"""Keys of Reformer's config with the number of tokens that a layer reads together, by its kind of attention."""
SPARSE = "block_sparse"
"""BigBird's attention between blocks of tokens."""


def min_length(config: Any) -> int:
    """Return the number of tokens of the shortest text that a model reads, special tokens included.

    Args:
        config: the model's config.
    """
    shortest = SHORTEST.get(getattr(config, "model_type", ""))
    return shortest(config) if shortest else 1


def check_min_length(ids: Sequence[int], config: Any) -> None:
    """Reject a source that is too short for the model.

    Args:
        ids: its token ids, with special tokens.
        config: the model's config.

    Raises:
        RowError: it is.
    """
    if len(ids) < (shortest := min_length(config)):
        reason = f"it has {len(ids)} tokens, but the model reads at least {shortest}; lengthen it, or use another model"
        raise RowError("source", reason)


def fix_attention_type(name: str, config: Any, max_tokens: int) -> None:
    """Make BigBird read every text with full attention, as it reads texts that are too short for its blocks.

    transformers switches the whole model to full attention at the first short batch. Later texts would be read in
    another way, depending on the batches before them.

    Args:
        name: the model, as in the recipe.
        config: its config, which is changed in place.
        max_tokens: maximum number of tokens that the model reads at once, with the virtual tokens of the method.

    Raises:
        RecipeError: longer texts would be read with block-sparse attention.
    """
    if getattr(config, "attention_type", None) != SPARSE:
        return
    longest = (5 + 2 * config.num_random_blocks) * config.block_size
    if max_tokens > longest:
        text = (
            f"texts of {max_tokens} tokens are too long for the model's {SPARSE} attention in transformers, which uses "
            f"full attention for texts of up to {longest} tokens and for all texts after the first such batch; allow "
            f'{max_tokens - longest} tokens less, or set "attention_type" to "original_full" in its config.json'
        )
        raise RecipeError([Problem(name, None, "train.max_source_length", text)])
    config.attention_type = "original_full"


def chunk_length(config: Any) -> int:
    """Return the number of tokens that all of Reformer's layers read in whole chunks; 0 for other models.

    Args:
        config: the model's config.
    """
    if getattr(config, "model_type", "") != "reformer":
        return 0
    return math.lcm(*(getattr(config, CHUNKS[kind]) for kind in set(config.attn_layers)))


def training_multiple(config: Any) -> int:
    """Return the number of tokens of which the length of every training batch must be a multiple.

    Reformer pads its inputs in evaluation only.

    Args:
        config: the model's config.
    """
    chunk = chunk_length(config)
    return math.prod(config.axial_pos_shape) if chunk and config.axial_pos_embds else max(1, chunk)


def check_training_multiple(name: str, config: Any, padded_to: int, max_tokens: int, positions: int | None) -> None:
    """Reject training batches of lengths that the model does not train on.

    Args:
        name: the model, as in the recipe.
        config: the model's config.
        padded_to: the number of tokens to a multiple of which training batches are padded.
        max_tokens: maximum number of tokens of a text.
        positions: the model's positions, beyond which nothing is padded; None if they are unlimited.

    Raises:
        RecipeError: the model needs other multiples, or has no positions for that many tokens.
    """
    multiple = training_multiple(config)
    reason = f"the model trains on texts of a multiple of {multiple} tokens only"
    if padded_to % multiple:
        text = f"{reason}; set pad_to_multiple_of = {multiple}"
        raise RecipeError([Problem(name, None, "train.pad_to_multiple_of", text)])
    if positions is not None and multiple > 1 and max_tokens > (longest := positions - positions % padded_to):
        text = f"{reason}, and has {positions} positions; lower it to {longest}, or use another model"
        raise RecipeError([Problem(name, None, "train.max_source_length", text)])
