"""Limits of the batches in which candidates are scored."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Limits:
    """Limits of one forward pass over suffixes.

    Attributes:
        bytes: maximum bytes of copied caches and masks.
        padding: maximum number of padding tokens.
        tokens: number of tokens above which a batch is scored in parts.
    """

    bytes: int
    padding: int
    tokens: int


CPU = Limits(32 * 2**20, 64, 1536)
"""What does not fit the processor's caches makes larger passes slower; a pass costs about as much as 50 tokens."""
ACCELERATOR = Limits(256 * 2**20, 2048, 2**62)
"""A pass costs more than its padding."""


def limits(device: torch.device) -> Limits:
    """Return the limits for a device."""
    return CPU if device.type == "cpu" else ACCELERATOR
