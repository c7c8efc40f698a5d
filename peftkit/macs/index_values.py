"""Runs operations on tensors of which some have values: a model's indices and masks, but none of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.macs.dispatch_mode import DispatchMode

MAX_NUMBERS = 1 << 20
"""The largest tensor of whole numbers that is kept with its values; larger ones are packed weights."""
CPU, META = torch.device("cpu"), torch.device("meta")


class IndexValues(DispatchMode):  # type: ignore[no-untyped-call]
    """Computes on the CPU what depends on whole numbers with values only, and all else on ``meta``.

    Some methods choose shapes by indices that they keep, such as the entries of a weight that they train. Their values
    are known without the weights. Real tensors are whole numbers and truth values from the model or new ones, and
    what is computed of them alone.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        kwargs = kwargs or {}
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        real = [each for each in tensors if each.device.type == "cpu"]
        if "device" in kwargs and kwargs["device"] is not None:
            has_values = len(real) == len(tensors) and (real or _makes_whole_numbers(kwargs))
            kwargs = {**kwargs, "device": CPU if has_values and not _is_empty(func) else META}
        if len(real) == len(tensors):
            return func(*args, **kwargs)
        if any(each.dim() for each in real):
            if func._schema.is_mutable and not args[0].is_meta:
                raise RuntimeError("the values of a tensor are replaced by unknown ones")
            args, kwargs = _without_values(args), _without_values(kwargs)
        if any(each.is_sparse and each.is_meta for each in _tensors(args)) and (
            kernel := SPARSE_KERNELS.get(func._overloadpacket.__name__)
        ):
            return kernel(*args)
        return func(*args, **kwargs)


def whole_numbers(model: nn.Module) -> dict[int, Tensor]:
    """Copy a model's tensors of whole numbers and truth values that have values.

    Args:
        model: The model.

    Returns:
        The copies, by their positions among parameters and buffers.
    """
    return {
        position: tensor.detach().to(CPU, copy=True)
        for position, tensor in enumerate((*model.parameters(), *model.buffers()))
        if not (tensor.is_meta or tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() <= MAX_NUMBERS
    }


def _makes_whole_numbers(kwargs: dict[str, Any]) -> bool:
    dtype = kwargs.get("dtype")
    return dtype is not None and not dtype.is_floating_point and not dtype.is_complex


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _is_empty(func: Any) -> bool:
    return "empty" in func._overloadpacket.__name__


def _without_values(value: Any) -> Any:
    """Replace tensors with values in an operation's arguments; a mask among indices by those it selects."""
    if isinstance(value, Tensor):
        return value.to(META)
    if isinstance(value, dict):
        return {key: _without_values(each) for key, each in value.items()}
    if not isinstance(value, list | tuple):
        return value
    parts: list[Any] = []
    for each in value:
        is_mask = isinstance(value, list) and isinstance(each, Tensor) and each.dtype == torch.bool
        selected = each.nonzero().unbind(1) if is_mask and not each.is_meta else (each,)
        parts += map(_without_values, selected)
    return type(value)(parts)


def _dense_like(tensor: Tensor, *others: Any) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=META)


SPARSE_KERNELS: dict[str, Callable[..., Any]] = {
    "_coalesce": lambda tensor: tensor._coalesced_(True),
    "add_": lambda tensor, other: tensor,
    "add": _dense_like,
    "_to_dense": _dense_like,
    "_sparse_addmm": _dense_like,
    "mm": lambda left, right: torch.empty(left.shape[0], right.shape[1], dtype=right.dtype, device=META),
    "sparse_mask": lambda tensor, mask: mask,
    "_sparse_mask_projection": lambda tensor, mask, *others: mask,
}
"""Operations on sparse tensors that torch has no kernels for on ``meta``; no two entries are at the same position."""
