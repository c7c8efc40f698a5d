"""Computes the logits of a decoder only where a target is predicted; others cost time and memory for nothing.

The hidden states of these positions are selected in front of the output layer, by a hook. So everything that a model or
a method does to the layer or to its logits stays in effect: adapters, tied weights, scaling, soft-capping.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

WRAPPED = ("base_layer", "original_module", "module")
"""Attributes in which wrappers of methods keep the layer that they wrap."""
LAYERS = (nn.Linear, Conv1D)
"""Layers whose output at a position depends on the input at that position only."""


def find_output_layer(model: nn.Module) -> nn.Module | None:
    """Return the layer that computes a model's logits from its last hidden states, with the wrappers of methods.

    Args:
        model: the model; it may be wrapped, as for several processes.

    Returns:
        The layer; None if the model has none, or one whose positions may depend on each other.
    """
    inner: Any = model
    while not callable(getattr(inner, "get_output_embeddings", None)):
        inner = getattr(inner, "module", None)
        if inner is None:
            return None
    layer = inner.get_output_embeddings()
    return layer if isinstance(layer, nn.Module) and isinstance(_unwrap(layer), LAYERS) else None


def _unwrap(layer: nn.Module) -> nn.Module:
    """Return the layer within the wrappers of methods."""
    inner: Any = layer
    while not isinstance(inner, LAYERS):
        wrapped = (getattr(inner, name, None) for name in WRAPPED)
        inner = next((each for each in wrapped if isinstance(each, nn.Module)), None)
        if inner is None:
            return layer
    return inner  # type: ignore[no-any-return]


def num_outputs(layer: nn.Module) -> int:
    """Return the number of outputs of a layer that ``find_output_layer`` returned."""
    inner: Any = _unwrap(layer)
    return int(inner.nf if isinstance(inner, Conv1D) else inner.out_features)


@dataclass
class Selection:
    """Whether positions were selected."""

    applied: int = 0
    """How often the output layer ran on selected positions."""


@contextmanager
def select_positions(model: nn.Module, columns: Tensor, length: int) -> Iterator[Selection]:
    """Compute logits at some positions only, within this context.

    Args:
        model: the model.
        columns: the positions of each row, of shape (rows, positions); counted without those that a method prepends.
        length: the length of the texts.

    Yields:
        Whether that worked: then logits have the shape (rows, positions, vocabulary).
    """
    selection, layer = Selection(), find_output_layer(model)

    def select(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = inputs[0] if inputs else None
        if not isinstance(hidden, Tensor) or hidden.ndim != 3 or hidden.shape[0] != columns.shape[0]:
            return None
        prepended = hidden.shape[1] - length
        if prepended < 0:
            return None
        selection.applied += 1
        index = (columns + prepended)[..., None].expand(-1, -1, hidden.shape[-1])
        return (hidden.gather(1, index), *inputs[1:])

    if layer is None:
        yield selection
        return
    hook = layer.register_forward_pre_hook(select)
    try:
        yield selection
    finally:
        hook.remove()
