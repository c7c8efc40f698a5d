"""Makes models use eager attention, so that its MACs are counted whatever kernel they would use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Compute attention with plain matrix products, which are counted the same on every device."""
    # transformers 4 chooses some models' attention layers at construction, and their masks by the config: there the
    # config must not change.
    fixed = any("SdpaAttention" in type(module).__name__ for module in model.modules())
    all_configs = (None if fixed else getattr(module, "config", None) for module in model.modules())
    configs: dict[int, Any] = {id(config): config for config in all_configs if hasattr(config, "_attn_implementation")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = "eager"
        with sdpa_kernel(SDPBackend.MATH):  # for layers that call torch's attention all the same
            yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation
