"""Copies of a model without weights, and batches without values, to count on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from dis import opmap
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from peftkit.macs.index_values import IndexValues, whole_numbers

COUNTS = ("choices", "input_tokens", "step_choices", "step_rows")
"""Tensors of a batch that hold counts: the model needs their values, not only their shapes."""
VALUE_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, IndexError)
"""Errors of operations that need values, on tensors without any."""


@dataclass(frozen=True)
class ShadowModel:
    """A copy of a model without weights to count on, or the model itself."""

    model: nn.Module
    mode: Any = field(default_factory=nullcontext)
    """Context manager to run the model in."""
    device: torch.device | None = None
    """Device of the copy's tensors; None for the model itself."""

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch as the model takes it; only ``COUNTS`` are sure to keep their values."""
        if self.device is None:
            device = next(self.model.parameters()).device
            tensors = {k: torch.ones_like(v, device=device) if v.is_meta else v.to(device) for k, v in batch.items()}
            return _replace_tensors(batch, tensors)
        return without_values(batch, self.device)


def without_values(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return empty tensors of the batch's shapes on a device, and the tensors that hold counts unchanged.

    Args:
        batch: The batch; its texts are tensors of shape (texts, length).
        device: The device.

    Returns:
        The batch; its texts are tensors of shape (texts, length).
    """
    empty = {k: v if k in COUNTS else torch.empty_like(v, device=device) for k, v in batch.items()}
    return _replace_tensors(batch, empty)


def ones_like_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ones in the batch's shapes, and the tensors that hold counts unchanged."""
    return _replace_tensors(
        batch, {k: v if k in COUNTS else torch.ones_like(v, device="cpu") for k, v in batch.items()}
    )


def _replace_tensors(batch: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace all tensors of a batch, whose class may keep numbers on the host beside them."""
    other = copy.copy(batch)
    other.update(tensors)
    return other


def shadow_models(model: nn.Module) -> Iterator[ShadowModel]:
    """Yield weightless copies of a model, the fastest first.

    They are on ``meta``; on ``meta`` with the values of indices and masks; of fake tensors, which have a device. The
    second and third are copies of the first, since the model may be wrapped or sharded by the time they are needed.
    """
    device, meta = next(model.parameters()).device, torch.device("meta")
    real_device = torch.device("cpu") if device.type == "meta" else device
    known = whole_numbers(model)
    modes: tuple[tuple[Any, torch.device, Mapping[int, Tensor]], ...] = (
        (nullcontext(), meta, {}),
        (IndexValues(), meta, known),  # type: ignore[no-untyped-call]
        (FakeTensorMode(allow_non_fake_inputs=True), real_device, {}),
    )
    for mode, target, values in modes:
        with suppress(*VALUE_ERRORS):  # something in the model cannot be copied
            # In training mode, because gradient checkpointing recomputes nothing otherwise.
            model = _copy_without_weights(model, target, mode, values).train()
            yield ShadowModel(model, mode, target)


def _copy_without_weights(
    model: nn.Module, device: torch.device, mode: Any, values: Mapping[int, Tensor] = MappingProxyType({})
) -> nn.Module:
    """Copy a model with tensors that have shapes but no values, and take no memory; some values are given."""
    memo: dict[int, Any] = {}
    with mode:
        for position, tensor in enumerate((*model.parameters(), *model.buffers())):
            if position in values:
                memo[id(tensor)] = values[position]
                continue
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
                for hook in (tensor._backward_hooks or {}).values():  # some methods compute on gradients in hooks
                    empty.register_hook(hook)  # type: ignore[no-untyped-call]
            memo[id(tensor)] = empty
    return copy.deepcopy(model, memo)


def raised_on_purpose(error: BaseException) -> bool:
    """Return whether a model's own code refused what it was given, rather than an operation failed.

    Args:
        error: The error of a pass.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    if trace is None or (module.split(".")[0] in ("torch", "peftkit") and not module.startswith("torch.distributions")):
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == opmap["RAISE_VARARGS"]
