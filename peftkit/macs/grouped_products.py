"""FLOPs of the matrix products of experts, each of which takes the rows that are routed to it.

torch has no formulas for them. How many rows go to which expert depends on the data, and their sum does not: it is the
number of tokens times that of the experts of each token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

Shape = Sequence[int]


def grouped_flops(left: Shape, right: Shape, *others: Any, **named: Any) -> int:
    """Return the FLOPs of ``torch.nn.functional.grouped_mm``.

    Args:
        left: (rows, inner), with the groups along either; or (groups, rows, inner).
        right: (inner, columns), with the groups along either; or (groups, inner, columns).
        *others: Where groups end, and further arguments.
        **named: The same by name, and the output.
    """
    groups = left[0] if len(left) == len(right) == 3 else 1  # otherwise a dimension is divided into the groups
    return 2 * groups * left[-2] * left[-1] * right[-1]


def fallback_flops(rows: Shape, weights: Shape, *others: Any, **named: Any) -> int:
    """Return the FLOPs of what transformers computes instead where torch cannot.

    Args:
        rows: (rows, inner).
        weights: (groups, inner, columns).
        *others: Where groups end.
        **named: The output.
    """
    return 2 * rows[0] * rows[1] * weights[2]


def fallback_backward_flops(rows: Shape, weights: Shape, *others: Any, **named: Any) -> int:
    """Return the FLOPs of its backward pass, which computes both gradients.

    Args:
        rows: (rows, inner).
        weights: (groups, inner, columns).
        *others: Where groups end, and the gradient of the output.
        **named: The outputs.
    """
    return 2 * fallback_flops(rows, weights)


def register_grouped_products() -> None:
    """Register the formulas of the operations that exist; those of transformers do once it has loaded experts."""
    for packet, formula in _formulas():
        if packet not in flop_registry:
            register_flop_formula(packet)(formula)


def _formulas() -> Iterator[tuple[Any, Callable[..., int]]]:
    aten, experts = torch.ops.aten, torch.ops.transformers
    if hasattr(aten, "_grouped_mm"):
        yield aten._grouped_mm, grouped_flops
    if hasattr(experts, "grouped_mm_fallback"):
        yield experts.grouped_mm_fallback, fallback_flops
        yield experts.grouped_mm_fallback_backward, fallback_backward_flops
