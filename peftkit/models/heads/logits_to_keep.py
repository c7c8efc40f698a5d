"""Computes logits only where a target is predicted; others cost time and memory for nothing.

The hidden states of these positions are selected in front of the output layer, by a hook. So everything that a model or
a method does to the layer or to its logits stays in effect: adapters, tied weights, scaling, soft-capping.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peftkit.models.batches.padding import texts_and_columns

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


def _is_by_position(wrapper: nn.Module) -> bool:
    """Whether a wrapper gets nothing but hidden states; Poly's gets the task of each row, for example."""
    parameters = [*inspect.signature(wrapper.forward).parameters.values()]
    return all(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters[1:])


def _unwrap(layer: nn.Module) -> nn.Module:
    """Return the layer within the wrappers of methods."""
    inner: Any = layer
    while not isinstance(inner, LAYERS):
        if not _is_by_position(inner):
            return layer
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


@dataclass(frozen=True)
class TargetLogits:
    """Logits, and the labels that they predict."""

    logits: Tensor
    """Of shape (texts, length, vocabulary), or (1, targets, vocabulary)."""
    labels: Tensor
    """Of shape (texts, length) or (1, targets)."""
    texts: Tensor | None = None
    """The text of each target, of shape (targets,); None if logits have a row for each text."""


def target_logits(
    model: nn.Module, run: Callable[[], Tensor], positions: Tensor, labels: Tensor
) -> TargetLogits | None:
    """Run a model so that it computes the logits of targets only.

    Args:
        model: the model.
        run: runs it, and returns its logits, of shape (texts, length, vocabulary) or (1, targets, vocabulary).
        positions: the positions that predict targets, of shape (1, targets); see ``target_positions``.
        labels: the label that each position predicts, of shape (texts, length).

    Returns:
        The logits, those of all positions if the model does not allow less; None if it must be run otherwise.
    """
    texts, length = labels.shape
    text, column = texts_and_columns(positions, texts)
    with select_positions(model, text, column, (texts, length)) as selection:
        logits = run()
    if not selection.applied:
        return TargetLogits(logits[:, -length:], labels)
    if selection.applied > 1 or logits.shape[:2] != positions.shape:  # the layer is used for something else too
        return None
    return TargetLogits(logits, labels.flatten().index_select(0, text * length + column)[None], text)


@contextmanager
def select_positions(model: nn.Module, texts: Tensor, columns: Tensor, shape: tuple[int, int]) -> Iterator[Selection]:
    """Compute logits at some positions only, within this context.

    Args:
        model: the model.
        texts: the text of each position, of shape (positions,).
        columns: its column, of shape (positions,); counted without those that a method prepends.
        shape: the number of texts, and their padded length.

    Yields:
        Whether that worked: then logits have the shape (1, positions, vocabulary).
    """
    selection, layer = Selection(), find_output_layer(model)

    def select(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = inputs[0] if inputs else None
        if not isinstance(hidden, Tensor) or hidden.ndim != 3 or hidden.shape[0] != shape[0]:
            return None
        prepended = hidden.shape[1] - shape[1]
        if prepended < 0:
            return None
        selection.applied += 1
        index = texts * hidden.shape[1] + columns + prepended
        return (hidden.flatten(0, 1).index_select(0, index)[None], *inputs[1:])

    if layer is None:
        yield selection
        return
    hook = layer.register_forward_pre_hook(select)
    try:
        yield selection
    finally:
        hook.remove()
