"""Resets the settings of a checkpoint's config that say how a model computes, which the recipe decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig

EXECUTION: Mapping[str, Any] = {
    "gradient_checkpointing": False,
    "chunk_size_feed_forward": 0,
    "torchscript": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
}
"""Settings that affect cost or the form of outputs, but not what a model is, with the values that peftkit uses."""
IMPLEMENTATIONS = ("_attn_implementation", "_experts_implementation")
"""Settings that choose kernels; None lets transformers choose."""


def reset_execution_settings(config: Any) -> None:
    """Make a model compute as the recipe says, whatever its checkpoint's config says.

    Args:
        config: the config as loaded; it and the configs in it are changed in place.
    """
    for part in _parts(config):
        for name in IMPLEMENTATIONS:
            if hasattr(part, name):
                setattr(part, name, None)
        for name, value in EXECUTION.items():
            if hasattr(part, name):
                setattr(part, name, value)


def _parts(config: Any) -> Iterator[Any]:
    """Yield a config and all configs in it."""
    yield config
    for value in [*vars(config).values()]:
        if isinstance(value, PretrainedConfig):
            yield from _parts(value)
