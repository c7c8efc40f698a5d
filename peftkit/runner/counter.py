"""What operations compute, as torch calls them: multiply-accumulates, and the numbers that others make."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

SUMMING = frozenset(
    {"_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data", "native_layer_norm"}
    | {"native_layer_norm_backward", "native_group_norm", "native_group_norm_backward", "native_dropout"}
    | {"_fused_rms_norm", "_fused_rms_norm_backward", "native_dropout_backward", "nll_loss_forward", "var_mean"}
)
"""Element-wise operations and sums that torch does not mark as such."""

FORMS: dict[Any, list[tuple[torch.Size, tuple[int, ...], torch.dtype] | None]] = {}
"""Shapes, strides and dtypes of what operations on ``meta`` have given, by the operation and what it was given."""


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is computed within it: FLOPs as torch's registry of formulas says, and the numbers of the rest.

    torch's own ``FlopCounterMode`` gives the same FLOPs, and takes half as long again, since it notes modules.
    """

    def __init__(self, guess: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.guess = guess
        """What is answered where the model asks for a truth that a tensor without values has not."""
        self.flops: int = 0
        self.rest: int = 0
        self.guessed = False
        """Whether it was asked."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation, and counts it."""
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool and _valueless(args[0]):
            self.guessed = True
            return self.guess  # such as "is there no padding at all?"
        out = self._made(func, args, kwargs)
        packet = func._overloadpacket
        if formula := flop_registry.get(packet):
            self.flops += formula(*args, **kwargs, out_val=out)
        elif torch.Tag.reduction in func.tags or packet.__name__ in SUMMING:
            self.rest += args[0].numel()
        elif torch.Tag.pointwise in func.tags and packet.__name__ != "clone" and isinstance(out, Tensor):
            self.rest += out.numel()
        return out

    def _made(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the operation gives; on ``meta`` most work is to find the form of that, which layers have in common."""
        try:
            key = (func, *map(_form, args), *((name, _form(value)) for name, value in kwargs.items()))
            known = FORMS.get(key)
        except TypeError:  # an argument is on a device
            return func(*args, **kwargs)
        if known is not None:
            made = [form and torch.empty_strided(*form[:2], dtype=form[2], device="meta") for form in known]
            return made[0] if len(made) == 1 else tuple(made)
        out = func(*args, **kwargs)
        several = out if isinstance(out, tuple) else (out,)
        if all(each is None or (isinstance(each, Tensor) and each.is_meta) for each in several) and not _shares(func):
            FORMS[key] = [each if each is None else (each.shape, each.stride(), each.dtype) for each in several]
        return out


def _form(value: Any) -> Any:
    """What the form of an operation's output depends on.

    Raises:
        TypeError: the value is a tensor that holds something.
    """
    if isinstance(value, list):
        return tuple(map(_form, value))
    if not isinstance(value, Tensor):
        return (type(value), value)
    if not value.is_meta or type(value) not in (Tensor, nn.Parameter):
        raise TypeError(value.device)
    return (value.shape, value.stride(), value.dtype)


@cache
def _shares(func: Any) -> bool:
    """Whether the operation writes into what it is given, or returns a part of it."""
    schema = func._schema
    return schema.is_mutable or any(each.alias_info is not None for each in schema.returns)


def _valueless(tensor: Tensor) -> bool:
    return tensor.is_meta or isinstance(tensor, FakeTensor)
