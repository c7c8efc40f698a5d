"""Counts parameters, and the bytes of saved ones."""

from __future__ import annotations

from pathlib import Path

from torch import nn


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable and of all parameters."""
    counts = [(_size(p), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)


def _size(parameter: nn.Parameter) -> int:
    """Return the number of elements of a parameter before sharding and quantization."""
    # DeepSpeed keeps the full size of a sharded parameter in an attribute.
    elements = int(getattr(parameter, "ds_numel", parameter.numel()))
    # bitsandbytes packs two 4-bit numbers into each byte, and bytes into elements of any dtype.
    packed = type(parameter).__name__ == "Params4bit"
    return elements * 2 * parameter.element_size() if packed else elements


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder in bytes."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
