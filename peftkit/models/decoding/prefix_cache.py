"""Caches of keys and values that several rows or candidates share."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache

from peftkit.components.types import TokenizedRow

MIN_SHARED_TOKENS = 16
"""Prompts with fewer common tokens are not shared: the pass that reads them would cost more than it saves."""


class CacheNotShareable(Exception):  # noqa: N818 - no error: another strategy is used
    """The model's cache cannot be shared by several candidates."""


def base_for_cache(model: nn.Module) -> nn.Module:
    """Return the model to continue a cache with: peft's prompt methods would prepend their prompt again."""
    config = getattr(model, "active_peft_config", None)
    return model.get_base_model() if config is not None and config.is_prompt_learning else model  # type: ignore[operator]


def check_packing(model: nn.Module, rows: Sequence[TokenizedRow]) -> list[list[int]]:
    """Return the sources of rows.

    Args:
        model: the model.
        rows: one batch of tokenized rows.

    Raises:
        CacheNotShareable: candidates cannot be packed into one sequence.
    """
    sources = [row["source"] for row in rows]
    if not accepts_argument(model, "position_ids"):
        raise CacheNotShareable("the model takes no position_ids")
    if not all(sources):
        raise CacheNotShareable("the source of a row is empty")
    return sources


def compute_dtype(model: nn.Module, device: torch.device) -> torch.dtype:
    """Return the dtype of a model's keys and values.

    Args:
        model: the model.
        device: its device; autocast counts.
    """
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def run_on(model: nn.Module, inputs: Mapping[str, Tensor], cache: Callable[[], Any] | None) -> Callable[[], Any]:
    """Return a function that runs a model; each call gets its own cache, which the model changes.

    Args:
        model: the model.
        inputs: arguments of its forward pass: token ids of shape (rows, length), masks and positions.
        cache: makes a cache; None to run without one.
    """
    if cache is None:
        return lambda: model(**inputs, use_cache=False)
    return lambda: model(**inputs, past_key_values=cache(), use_cache=True)


def accepts_argument(model: nn.Module, argument: str) -> bool:
    """Whether ``forward`` of the model, without peft's wrapper, has a parameter of that name.

    Args:
        model: the model.
        argument: the name of the parameter.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return argument in inspect.signature(base.forward).parameters


def keeps_all_positions(config: Any, positions: int) -> bool:
    """Whether a model's cache keeps the keys and values of all positions, so that each may attend to all before it.

    Args:
        config: the model's config.
        positions: the number of positions.
    """
    layers = DynamicCache(config=config).layers
    return all(_keeps(layer, positions) for layer in layers)


def _keeps(layer: Any, positions: int) -> bool:
    return type(layer) is DynamicLayer or (
        type(layer) is DynamicSlidingWindowLayer and positions <= layer.sliding_window
    )


def cache_layers(cache: Any, positions: int = 0) -> list[Any]:
    """Return the layers of a cache that keeps the keys and values of all positions.

    Args:
        cache: the ``past_key_values`` that a model returned.
        positions: number of positions that the cache must be able to hold.

    Raises:
        CacheNotShareable: it is empty, not a cache, or of a type that may drop positions.
    """
    if isinstance(cache, EncoderDecoderCache):
        return cache_layers(cache.self_attention_cache, positions) + cache_layers(cache.cross_attention_cache)
    if not isinstance(cache, Cache):
        raise CacheNotShareable(f"it is a {type(cache).__name__}")
    if not cache.layers or any(layer.keys is None for layer in cache.layers):
        raise CacheNotShareable("it is empty")
    for layer in cache.layers:
        if not _keeps(layer, positions):
            raise CacheNotShareable(f"it has a {type(layer).__name__}")
    return list(cache.layers)


def cache_row_bytes(cache: Any) -> int:
    """Return the size of one row of a cache in bytes."""
    return sum(t[0].numel() * t.element_size() for layer in cache_layers(cache) for t in (layer.keys, layer.values))


def slice_cache(cache: Any, rows: Tensor | slice, positions: int | None = None) -> Any:
    """Return some rows of a cache as a new cache.

    Args:
        cache: a cache accepted by ``cache_layers``; it is not changed.
        rows: row indices of shape (new rows,), which may repeat, or a slice, which copies nothing.
        positions: number of positions to keep from the start; cross-attention keeps all.
    """
    if isinstance(cache, EncoderDecoderCache):
        self_attention, cross_attention = cache.self_attention_cache, cache.cross_attention_cache
        return EncoderDecoderCache(slice_cache(self_attention, rows, positions), slice_cache(cross_attention, rows))
    sliced = copy.copy(cache)
    sliced.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in sliced.layers:
        keys, values = layer.keys[:, :, :positions], layer.values[:, :, :positions]
        if isinstance(rows, slice):
            layer.keys, layer.values = keys[rows], values[rows]
        else:  # several times faster than indexing on a CPU
            layer.keys, layer.values = keys.index_select(0, rows), values.index_select(0, rows)
    return sliced


@dataclass
class SharedPrompt:
    """What the prompts of an evaluation have in common, such as examples in front of them; it is read once.

    Attributes:
        ids: its token ids; empty as long as nothing is shared.
        cache: its keys and values, with one row.
        num_virtual: the number of positions that the method prepends.
        previous: the source that was seen last.
    """

    ids: list[int] = field(default_factory=list)
    cache: Any = None
    num_virtual: int = 0
    previous: list[int] | None = None

    def update(self, model: nn.Module, sources: Sequence[list[int]], device: torch.device) -> bool:
        """Read what the sources of a batch share with each other and with the batch before, unless it has been read.

        Args:
            model: the model, in evaluation mode.
            sources: the token ids of the sources.
            device: the model's device.

        Returns:
            Whether they share something; at least one token of each source is left to be read.
        """
        seen, self.previous = [*sources, *([self.previous] if self.previous else [])], sources[0]
        shortest = min(map(len, sources)) - 1
        if self.ids and len(self.ids) <= shortest and all(s[: len(self.ids)] == self.ids for s in sources):
            return True
        length = min(shortest, common_length(min(seen), max(seen)))
        # Methods that prepend a prompt can only do so here, and every row then continues without it.
        least = MIN_SHARED_TOKENS if base_for_cache(model) is model else 1
        if len(seen) < 2 or length < least:
            return False
        ids = sources[0][:length]
        inputs = torch.tensor([ids], device=device)
        options = {"logits_to_keep": 1} if accepts_argument(model, "logits_to_keep") else {}
        cache = model(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), use_cache=True, **options
        ).past_key_values
        cache_layers(cache)
        self.ids, self.cache, self.num_virtual = ids, cache, cache.get_seq_length() - length
        return True

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of keys and values."""
        return self.cache.layers[0].keys.dtype  # type: ignore[no-any-return]

    @property
    def positions(self) -> int:
        """The number of cached positions."""
        return self.num_virtual + len(self.ids)

    def expand(self, rows: int) -> Any:
        """Return the cache for a number of rows, without copying it."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            layer.keys, layer.values = (t.expand(rows, -1, -1, -1) for t in (layer.keys, layer.values))
        return cache


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of leading tokens that two texts have in common.

    Args:
        first: the token ids of a text.
        second: those of another one.
    """
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
