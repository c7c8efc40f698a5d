"""Counts the operations and the memory of an optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from peftkit.macs.activation_memory import StepMemory
from peftkit.macs.flop_counter import OpCounter

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


class OptimizerCosts(NamedTuple):
    """Costs of an optimizer step."""

    elementwise: int
    """Numbers that its operations process."""
    state_bytes: int
    """The size of the state that it keeps."""
    intermediate_bytes: int
    """The most that it holds of intermediate results at a time."""


def count_optimizer_step(make: MakeOptimizer, model: nn.Module) -> OptimizerCosts:
    """Count an optimizer step over zeros in the shapes of the trainable parameters.

    The second step is counted, because the first one also creates the optimizer's state. Fused kernels cannot be
    counted, so others are.

    Args:
        make: Makes the optimizer of a model.
        model: The model.
    """
    stand_in = nn.Module()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            zeros = nn.Parameter(torch.zeros(parameter.shape, dtype=parameter.dtype))
            zeros.grad = torch.zeros_like(zeros)
            stand_in._parameters[key] = zeros  # not registered: the names have dots, as in the model
    optimizer, operations, state_bytes, intermediate_bytes = make(stand_in), 0, 0, 0
    for group in optimizer.param_groups:
        group |= {key: False for key in ("fused", "foreach") if key in group}  # their kernels cannot be counted
        # Parameters of one shape and dtype cost the same.
        same_kind = groupby(sorted(group["params"], key=_shape_and_dtype), key=_shape_and_dtype)
        for first, *others in (list(parameters) for _, parameters in same_kind):
            optimizer.param_groups = [group | {"params": [first]}]
            optimizer.step()
            memory = StepMemory()
            with OpCounter() as counter, memory:
                optimizer.step()
            intermediate_bytes = max(intermediate_bytes, memory.peak)
            operations += counter.elementwise * (1 + len(others))
            state = [value for value in optimizer.state[first].values() if isinstance(value, Tensor)]
            state_bytes += sum(value.numel() * value.element_size() for value in state) * (1 + len(others))
    return OptimizerCosts(operations, state_bytes, intermediate_bytes)


def _shape_and_dtype(parameter: nn.Parameter) -> tuple[tuple[int, ...], str]:
    return tuple(parameter.shape), str(parameter.dtype)
