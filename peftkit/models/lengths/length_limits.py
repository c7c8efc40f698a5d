"""Architectures that read no texts below some length, or read short and long texts in different ways."""

from __future__ import annotations

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
