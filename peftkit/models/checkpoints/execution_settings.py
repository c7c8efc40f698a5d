"""Settings of a checkpoint that say how a model computes, which the recipe decides or has to agree with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig

from peftkit.errors import ModelError

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


def check_quantization(name: str, config: Any, quantization: str | None, dtype: str) -> None:
    """Reject weights that were saved quantized, unless the recipe asks for the same quantization.

    Args:
        name: the model, as in the recipe.
        config: its config.
        quantization: ``4bit``, ``8bit`` or None, as in the recipe.
        dtype: the dtype of the recipe.

    Raises:
        ModelError: they were saved in another way.
    """
    saved = getattr(config, "quantization_config", None)
    if not saved:
        return
    settings: Mapping[str, Any] = saved if isinstance(saved, dict) else saved.to_dict()
    quant_method = str(settings.get("quant_method", "")).rpartition(".")[2].lower() or "an unknown method"
    bits = "4bit" if settings.get("load_in_4bit") else "8bit" if settings.get("load_in_8bit") else ""
    bitsandbytes = ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit")
    if quant_method in bitsandbytes and bits == quantization:
        return
    alternative = f', or set model.quantization = "{bits}"' if bits else ""
    raise ModelError(
        f"the weights of {name!r} were saved quantized (by {quant_method}), but the recipe asks for "
        f"{quantization or dtype}; use the original checkpoint{alternative}"
    )
