"""Counts torch operations: FLOPs, and the numbers that element-wise operations process."""

from __future__ import annotations

from functools import cache
from math import prod
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


FLOPS: dict[Any, int] = {}
"""FLOPs of operations on ``meta``, by operation and the shapes of its arguments and outputs."""
Operation = tuple[Any, ...]
"""A counted operation: whether it is of the backward pass, the operation, and the shapes that its count depends on."""


class OpCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts FLOPs with torch's formulas, and the numbers that other operations process.

    ``FlopCounterMode`` of torch gives the same FLOPs, but takes 1.5 times as long because it tracks modules.

    Args:
        guess: The answer where the model asks for the truth value of a tensor without values.
    """

    def __init__(self, guess: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.guess = guess
        self.forward_flops: int = 0
        """FLOPs of matrix products, convolutions and attention."""
        self.backward_flops: int = 0
        self.elementwise: int = 0
        """Numbers that element-wise operations write and reductions read."""
        self.guessed = False
        """Whether ``guess`` was used."""
        self.backward = False
        """Whether the operations are those of the backward pass."""
        self.operations: list[Operation] = []
        """The counted operations, in order; those in place that differ in rows only are one between two products."""
        self._in_place: dict[Any, int] = {}

    @property
    def flops(self) -> int:
        """FLOPs of both passes."""
        return self.forward_flops + self.backward_flops

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
            named = tuple((name, _shapes(value)) for name, value in kwargs.items())
            shapes = packet, _shapes(args), named, _shapes(out)
            on_meta = isinstance(out, Tensor) and out.is_meta  # some formulas read values where there are any
            flops = FLOPS.get(shapes) if on_meta else None
            if flops is None:
                flops = formula(*args, **kwargs, out_val=out)
                if on_meta:
                    FLOPS[shapes] = flops
            if self.backward:
                self.backward_flops += flops
            else:
                self.forward_flops += flops
            self.operations.append((self.backward, *shapes))
            self._in_place.clear()
        elif torch.Tag.reduction in func.tags or packet.__name__ in REDUCTIONS:
            self._add_elementwise(func, args[0])
        elif torch.Tag.pointwise in func.tags and packet.__name__ != "clone" and isinstance(out, Tensor):
            self._add_elementwise(func, out)
        return out

    def _add_elementwise(self, func: Any, tensor: Tensor) -> None:
        self.elementwise += tensor.numel()
        operation = self.backward, func._overloadpacket, tuple(tensor.shape)
        if operation[2] and func._schema.is_mutable:
            # One tensor may be overwritten in parts, whose number depends on its size.
            known = self._in_place.setdefault((*operation[:2], operation[2][1:]), len(self.operations))
            if known < len(self.operations):
                rows, *columns = self.operations[known][2]
                self.operations[known] = (*operation[:2], (rows + operation[2][0], *columns))
                return
        self.operations.append(operation)

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


def count_operation(operation: Operation) -> tuple[int, int, int]:
    """Count an operation anew.

    Args:
        operation: The operation; its shapes may be others than those of a pass.

    Returns:
        FLOPs of the forward pass, those of the backward pass, and the numbers that an element-wise one processes.
    """
    backward, packet, shapes, *others = operation
    if not others:
        return 0, 0, prod(shapes)
    named, out = others
    flops = flop_registry[packet](*shapes, **dict(named), out_val=out)
    return (0, flops, 0) if backward else (flops, 0, 0)


def _shapes(value: Any) -> Any:
    """Replace the tensors in an operation's arguments or outputs by their shapes."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return tuple(map(_shapes, value)) if isinstance(value, tuple | list) else value


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
