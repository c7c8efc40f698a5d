from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from peftkit.macs.eager_attention import eager_attention


class Config:
    def __init__(self, implementation: str) -> None:
        self._attn_implementation = implementation


def test_attention_is_plain_within_the_context_only() -> None:
    model, inner, other = nn.Module(), nn.Module(), nn.Module()
    model.config = Config("sdpa")  # type: ignore[assignment]
    inner.config = Config("flash_attention_2")  # type: ignore[assignment]
    other.config = SimpleNamespace()  # type: ignore[assignment]
    model.inner, model.other = inner, other

    def implementations() -> list[Any]:
        return [model.config._attn_implementation, inner.config._attn_implementation]  # type: ignore[union-attr]

    with eager_attention(model):
        assert implementations() == ["eager", "eager"]
    assert implementations() == ["sdpa", "flash_attention_2"]
    with pytest.raises(ValueError, match="inside"), eager_attention(model):
        raise ValueError("inside")
    assert implementations() == ["sdpa", "flash_attention_2"]
    assert vars(other.config) == {}

    class OldSdpaAttention(nn.Module):
        """Attention whose implementation transformers 4 chose at construction."""

    model.layer = OldSdpaAttention()
    with eager_attention(model):
        assert implementations() == ["sdpa", "flash_attention_2"]
