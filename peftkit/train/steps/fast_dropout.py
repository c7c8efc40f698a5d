"""Dropout for CPUs, where drawing a mask with torch takes longer than most layers of a small model."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.train.steps.replaced_functions import ReplacedFunctions

LEVELS = 2**16
"""The resolution of a probability: 16 random bits are drawn for each number."""
_BITS_PER_DRAW = 64


def fast_dropout() -> AbstractContextManager[None]:
    """Make dropout of this thread draw 16 random bits for each number on a CPU, three times as fast as torch.

    The masks are others than torch's, from the same generator. The probability is rounded to 1/65,536, and the numbers
    that are kept are scaled by the rounded one, so that the expectation is exact. This includes the dropout of the
    weights of attention.
    """
    return _FUNCTIONS.replaced()


def scaled_mask(values: Tensor, probability: float) -> Tensor:
    """Draw a mask: zeros with a probability, and elsewhere the inverse of the probability to be kept.

    Args:
        values: A tensor on a CPU, of any shape.
        probability: The probability of a zero, below 1.

    Returns:
        A tensor of the same shape and type.
    """
    number, dropped = values.numel(), round(probability * LEVELS)
    draws = torch.empty(math.ceil(16 * number / _BITS_PER_DRAW), dtype=torch.int64).random_(-(2**63), None)
    mask = torch.empty_like(values, requires_grad=False)
    torch.ge(draws.view(torch.int16)[:number].view(values.shape), dropped - LEVELS // 2, out=mask)
    return mask.mul_(LEVELS / (LEVELS - dropped))


_library: Any = torch.library.Library("peftkit", "DEF")  # type: ignore[no-untyped-call]
# To torch.compile a mask is one operation, which depends on values so that masks are drawn in the order of the layers.
_library.define("scaled_mask(Tensor values, float probability) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
_library.impl("scaled_mask", scaled_mask, "CPU")
_library.impl("scaled_mask", lambda values, _: torch.empty_like(values), "Meta")


def _draw(values: Tensor, probability: float) -> Tensor:
    if not torch.compiler.is_compiling():
        return scaled_mask(values, probability)
    mask: Tensor = torch.ops.peftkit.scaled_mask(values.detach(), probability)
    return mask


def _is_replaced(values: Tensor, probability: float) -> bool:
    is_plain = type(values) in (Tensor, nn.Parameter) and values.device.type == "cpu" and values.is_floating_point()
    # Only this thread compiles while it draws masks this way, and its number cannot be asked for in compiled code.
    is_ours = torch.compiler.is_compiling() or _FUNCTIONS.active
    return is_plain and is_ours and 0 < round(probability * LEVELS) < LEVELS


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or not _is_replaced(input, p):
        original: Tensor = _FUNCTIONS.original("dropout")(input, p, training, inplace)
        return original
    mask = _draw(input, p)
    return input.mul_(mask) if inplace else input * mask


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute attention with dropout from the products themselves, as torch does on a CPU."""
    if not _is_replaced(query, dropout_p):
        original: Tensor = _FUNCTIONS.original("scaled_dot_product_attention")(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return original
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if attn_mask is not None:
        bias = attn_mask
        if attn_mask.dtype == torch.bool:
            bias = torch.zeros(attn_mask.shape, dtype=query.dtype).masked_fill_(~attn_mask, -math.inf)
        scores += bias
    # As in torch, where a position that attends to nothing has weights of zero.
    weights = scores.softmax(-1) if attn_mask is None else torch.ops.aten._safe_softmax(scores, -1)
    return (weights * _draw(weights, dropout_p)) @ value


_FUNCTIONS = ReplacedFunctions(dropout=_dropout, scaled_dot_product_attention=_attention)
