"""Counts torch operations: FLOPs, and the numbers that element-wise operations process."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import flop_registry

from peftkit.macs.dispatch_mode import DispatchMode
from peftkit.macs.grouped_products import register_grouped_products

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


class Kind(NamedTuple):
    """What is known of an operation; finding it out takes longer than running it."""

    name: str
    packet: Any
    formula: Any
    """Of its FLOPs; None if they are not counted."""
    is_reduction: bool
    is_pointwise: bool
    is_mutable: bool
    makes_tensors: bool
    """Whether it makes tensors from others: no views, nor new ones, which may have values even here."""


KINDS: dict[int, Kind] = {}
"""The kind of each operation by its identity; operations live as long as the process."""


class OpCounter(DispatchMode):  # type: ignore[no-untyped-call]
    """Counts FLOPs with torch's formulas, and the numbers that other operations process.

    ``FlopCounterMode`` of torch gives the same FLOPs, but takes 1.5 times as long because it tracks modules.

    Args:
        guess: The answer where the model asks for the truth value of a tensor without values.
    """

    def __init__(self, guess: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        register_grouped_products()
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
        if func is torch.ops.aten._local_scalar_dense.default:  # of a condition such as "is there no padding at all?"
            if args[0].dtype == torch.bool and _has_no_values(args[0]):
                self.guessed = True
                return self.guess
            return func(*args, **kwargs)
        kind = KINDS.get(id(func)) or _kind_of(func)
        out = self._run(func, kind, args, kwargs)
        if kind.formula is not None:
            named = tuple((name, _shapes(value)) for name, value in kwargs.items())
            shapes = kind.packet, _shapes(args), named, _shapes(out)
            on_meta = isinstance(out, Tensor) and out.is_meta  # some formulas read values where there are any
            flops = FLOPS.get(shapes) if on_meta else None
            if flops is None:
                flops = kind.formula(*args, **kwargs, out_val=out)
                if on_meta:
                    FLOPS[shapes] = flops
            if self.backward:
                self.backward_flops += flops
            else:
                self.forward_flops += flops
            self.operations.append((self.backward, *shapes))
            self._in_place.clear()
        elif kind.is_reduction:
            self._add_elementwise(kind, args[0])
        elif kind.is_pointwise and isinstance(out, Tensor):
            self._add_elementwise(kind, out)
        return out

    def _add_elementwise(self, kind: Kind, tensor: Tensor) -> None:
        shape = tuple(tensor.shape)
        self.elementwise += prod(shape)
        if shape and kind.is_mutable:
            # One tensor may be overwritten in parts, whose number depends on its size.
            known = self._in_place.setdefault((self.backward, kind.name, shape[1:]), len(self.operations))
            if known < len(self.operations):
                rows, *columns = self.operations[known][2]
                self.operations[known] = (self.backward, kind.packet, (rows + shape[0], *columns))
                return
        self.operations.append((self.backward, kind.packet, shape))

    def _run(self, func: Any, kind: Kind, args: Any, kwargs: Any) -> Any:
        """Run the operation; on ``meta`` build its outputs from cached shapes, whose inference takes most time."""
        if not kind.makes_tensors:
            return func(*args, **kwargs)
        try:
            key = (kind.name, *map(_shape_key, args), *((name, _shape_key(value)) for name, value in kwargs.items()))
            shapes = OUTPUT_SHAPES.get(key)
        except TypeError:  # an argument is not on meta
            return func(*args, **kwargs)
        if shapes is not None:
            built = [s and torch.empty_strided(*s[:2], dtype=s[2], device="meta") for s in shapes]
            return built[0] if len(built) == 1 else tuple(built)
        out = func(*args, **kwargs)
        outputs = out if isinstance(out, tuple) else (out,)
        if all(o is None or (isinstance(o, Tensor) and o.is_meta and not o.is_sparse) for o in outputs):
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
        TypeError: The value is a tensor with values, or a sparse one.
    """
    if isinstance(value, list):
        return tuple(map(_shape_key, value))
    if not isinstance(value, Tensor):
        return (type(value), value)
    if not value.is_meta or value.is_sparse or type(value) not in (Tensor, nn.Parameter):
        raise TypeError(value.device)
    return (value.shape, value.stride(), value.dtype)


def _kind_of(func: Any) -> Kind:
    packet, schema = func._overloadpacket, func._schema
    reads = any("Tensor" in str(each.type) for each in schema.arguments)
    returns_view = schema.is_mutable or any(each.alias_info is not None for each in schema.returns)
    kind = Kind(
        str(func),
        packet,
        flop_registry.get(packet),
        is_reduction=torch.Tag.reduction in func.tags or packet.__name__ in REDUCTIONS,
        is_pointwise=torch.Tag.pointwise in func.tags and packet.__name__ != "clone",
        is_mutable=schema.is_mutable,
        makes_tensors=reads and not returns_view,
    )
    KINDS[id(func)] = kind
    return kind


def _has_no_values(tensor: Tensor) -> bool:
    return tensor.is_meta or isinstance(tensor, FakeTensor)
