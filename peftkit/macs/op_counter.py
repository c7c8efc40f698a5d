"""Counts torch operations: FLOPs, and the numbers that element-wise operations process."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

REDUCTIONS = frozenset(
    {"_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data", "native_layer_norm"}
    | {"native_layer_norm_backward", "native_group_norm", "native_group_norm_backward", "native_dropout"}
    | {"_fused_rms_norm", "_fused_rms_norm_backward", "native_dropout_backward", "nll_loss_forward", "var_mean"}
)
"""Element-wise operations and reductions that torch does not tag as such."""

OUTPUT_SHAPES: dict[Any, list[tuple[torch.Size, tuple[int, ...], torch.dtype] | None]] = {}
"""Shape, stride and dtype of each output of operations on ``meta``, by operation and arguments."""


class OpCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts FLOPs with torch's formulas, and the numbers that other operations process.

    ``FlopCounterMode`` of torch gives the same FLOPs, but takes 1.5 times as long because it tracks modules.

    Args:
        guess: The answer where the model asks for the truth value of a tensor without values.
    """

    def __init__(self, guess: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.guess = guess
        self.flops: int = 0
        """FLOPs of matrix products, convolutions and attention."""
        self.elementwise: int = 0
        """Numbers that element-wise operations write and reductions read."""
        self.guessed = False
        """Whether ``guess`` was used."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count it."""
        kwargs = kwargs or {}
        is_item = func is torch.ops.aten._local_scalar_dense.default
        if is_item and args[0].dtype == torch.bool and _has_no_values(args[0]):
            self.guessed = True
            return self.guess  # of a condition such as "is there no padding at all?"
        out = self._run(func, args, kwargs)
        packet = func._overloadpacket
        if formula := flop_registry.get(packet):
            self.flops += formula(*args, **kwargs, out_val=out)
        elif torch.Tag.reduction in func.tags or packet.__name__ in REDUCTIONS:
            self.elementwise += args[0].numel()
        elif torch.Tag.pointwise in func.tags and packet.__name__ != "clone" and isinstance(out, Tensor):
            self.elementwise += out.numel()
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run the operation; on ``meta`` build its outputs from cached shapes, whose inference takes most time."""
        try:
            key = (func, *map(_shape_key, args), *((name, _shape_key(value)) for name, value in kwargs.items()))
            shapes = OUTPUT_SHAPES.get(key)
        except TypeError:  # an argument is not on meta
            return func(*args, **kwargs)
        if shapes is not None:
            built = [s and torch.empty_strided(*s[:2], dtype=s[2], device="meta") for s in shapes]
            return built[0] if len(built) == 1 else tuple(built)
        out = func(*args, **kwargs)
        outputs = out if isinstance(out, tuple) else (out,)
        if not _returns_view(func) and all(o is None or (isinstance(o, Tensor) and o.is_meta) for o in outputs):
            OUTPUT_SHAPES[key] = [o if o is None else (o.shape, o.stride(), o.dtype) for o in outputs]
        return out


def _shape_key(value: Any) -> Any:
    """Return the part of an argument that determines the shapes of an operation's outputs.

    Raises:
        TypeError: The value is a tensor with values.
    """
    if isinstance(value, list):
        return tuple(map(_shape_key, value))
    if not isinstance(value, Tensor):
        return (type(value), value)
    if not value.is_meta or type(value) not in (Tensor, nn.Parameter):
        raise TypeError(value.device)
    return (value.shape, value.stride(), value.dtype)


@cache
def _returns_view(func: Any) -> bool:
    """Return whether the operation writes into an argument or returns a view of one."""
    schema = func._schema
    return schema.is_mutable or any(each.alias_info is not None for each in schema.returns)


def _has_no_values(tensor: Tensor) -> bool:
    return tensor.is_meta or isinstance(tensor, FakeTensor)
