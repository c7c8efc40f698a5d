"""Log-likelihoods of the tokens that a forward pass predicts, without keeping the logits of all positions.

A hook in front of the output layer runs it in chunks on the hidden states that predict a target, so a chunk of logits
stays in the processor's caches. The first time, the model itself computes the logits of one position, and these are
compared with the layer's output: models that change logits after the layer, as in soft-capping, are read in full. The
hidden state of that position is scaled until its logits are large, since soft-capping hardly changes small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn

from peftkit.models.heads.logits_to_keep import find_output_layer, num_outputs
from peftkit.models.heads.token_losses import token_logprobs, tolerance

CHUNK_BYTES = {"cpu": 8 * 2**20}
"""Bytes of a chunk of logits, by type of device."""
ACCELERATOR_CHUNK_BYTES = 256 * 2**20
COMPARED_LOGIT = 100.0
"""The largest logit of the position that is compared; soft-capping keeps logits below 30 or 50."""
MIN_CHUNK = 64
"""Number of positions that a chunk may always have: matrix products of fewer rows are slower."""
_CHANGES_LOGITS: WeakSet[nn.Module] = WeakSet()
"""Models whose logits are not the output of their output layer."""
_LEAVES_LOGITS: WeakSet[nn.Module] = WeakSet()
"""Models whose logits were the output of their output layer."""


class Target(NamedTuple):
    """A token that is predicted.

    Attributes:
        row: the row of the pass.
        column: the position whose logits predict it.
        token: its id.
    """

    row: int
    column: int
    token: int


@dataclass
class _Reader:
    """Reads hidden states in front of the output layer.

    Attributes:
        rows: the rows of the positions that predict targets, of shape (positions,).
        columns: their columns.
        positions: for each target, the index of its position, ascending; of shape (targets,), on the CPU.
        tokens: the id of each target, of shape (targets,).
        shape: the number of rows, and the length of the texts.
        leave_to_model: whether the model itself computes the logits, since each row has one position.
        compare: whether the model computes the logits of one scaled position, to be compared with the layer's output.
    """

    rows: Tensor
    columns: Tensor
    positions: Tensor
    tokens: Tensor
    shape: Sequence[int]
    leave_to_model: bool
    compare: bool
    values: Tensor | None = None
    first: Tensor | None = None
    calls: int = 0
    reading: bool = False

    def read(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Compute log-likelihoods from the layer's input, and leave some positions to the model."""
        if self.reading:
            return None
        self.calls += 1
        hidden = inputs[0] if inputs else None
        if not isinstance(hidden, Tensor) or hidden.ndim != 3 or len(hidden) != self.shape[0]:
            return None
        prepended = hidden.shape[1] - self.shape[1]
        if prepended < 0:
            return None
        chosen = hidden[self.rows, self.columns + prepended]
        if self.leave_to_model:
            return (chosen[:, None], *inputs[1:])
        self.reading = True
        try:
            first = self._read_in_chunks(module, chosen, inputs[1:])
            compared = chosen[None, :0]
            if self.compare:
                compared = chosen[None, :1] * (COMPARED_LOGIT / first.abs().max().clamp(min=1e-6)).to(chosen.dtype)
                self.first = module(compared, *inputs[1:])[0, 0]
        finally:
            self.reading = False
        return (compared, *inputs[1:])

    def _read_in_chunks(self, module: nn.Module, hidden: Tensor, others: tuple[Any, ...]) -> Tensor:
        """Run the layer on hidden states of shape (positions, width); return the logits of the first position."""
        values, first_logits = list[Tensor](), hidden
        size = chunk_size(num_outputs(module), hidden.device)
        chunks = hidden.chunk(-(-len(hidden) // size))
        starts = list(accumulate(map(len, chunks), initial=0))
        bounds = torch.searchsorted(self.positions, torch.tensor(starts)).tolist()
        for chunk, start, first, last in zip(chunks, starts, bounds, bounds[1:], strict=False):
            logits = module(chunk[None], *others)[0]
            if not start:
                first_logits = logits[0].clone()
            positions = (self.positions[first:last] - start).to(logits.device)
            values.append(token_logprobs(logits, positions, self.tokens[first:last]))
        self.values = torch.cat(values)
        return first_logits

    def is_valid(self, logits: Tensor, model: nn.Module) -> bool:
        """Whether the layer was called once, and the model's logits are its output.

        Args:
            logits: the model's logits.
            model: the model.
        """
        if self.calls != 1:
            return False
        if self.leave_to_model:
            return logits.shape[:2] == (self.shape[0], 1)
        if not self.compare:
            return self.values is not None and logits.shape[:2] == (1, 0)
        if self.first is None or logits.shape != (1, 1, len(self.first)):
            return False
        first, expected = self.first.float(), logits[0, 0].float()
        if torch.allclose(first, expected, rtol=1e-5, atol=1e-5, equal_nan=True):
            return True
        rtol = tolerance(model, logits.device)
        return torch.allclose(first, expected, rtol=rtol, atol=rtol, equal_nan=True)


def chunk_size(vocab_size: int, device: torch.device) -> int:
    """Return the number of positions in a chunk of logits.

    Args:
        vocab_size: size of the vocabulary.
        device: the device.
    """
    return max(MIN_CHUNK, CHUNK_BYTES.get(device.type, ACCELERATOR_CHUNK_BYTES) // (4 * vocab_size))


def target_logprobs(
    model: nn.Module,
    run: Callable[[], Any],
    targets: Sequence[Target],
    shape: Sequence[int],
    device: torch.device,
) -> tuple[Any, Tensor]:
    """Run a model, and compute the log-likelihoods of the tokens that it predicts.

    Args:
        model: the model, in evaluation mode.
        run: runs the model on a batch, and returns its output; it may be called twice.
        targets: the predicted tokens, at least one in each row.
        shape: the number of rows of the batch, and its length without positions that a method prepends.
        device: the model's device.

    Returns:
        The model's output, whose logits are incomplete, and the log-likelihood of each target in nats, of shape
        (targets,).
    """
    row, column, token = torch.tensor(targets).unbind(1)
    keys, positions = torch.unique(row * shape[1] + column, return_inverse=True)
    order = positions.argsort(stable=True)
    reader = _Reader(
        (keys // shape[1]).to(device),
        (keys % shape[1]).to(device),
        positions[order],
        token[order].to(device),
        shape,
        leave_to_model=len(keys) == shape[0],
        compare=model not in _LEAVES_LOGITS,
    )
    layer = None if model in _CHANGES_LOGITS else find_output_layer(model)
    if layer is not None:
        hook = layer.register_forward_pre_hook(reader.read)
        try:
            output = run()
        finally:
            hook.remove()
        if reader.is_valid(output.logits, model):
            if reader.values is None:
                return output, token_logprobs(output.logits[:, 0], row.to(device), token.to(device))
            _LEAVES_LOGITS.add(model)
            return output, torch.empty_like(reader.values).index_copy_(0, order.to(device), reader.values)
        _CHANGES_LOGITS.add(model)
    output = run()
    return output, _from_all_logits(output.logits, row, column, token, shape[1])


def _from_all_logits(logits: Tensor, row: Tensor, column: Tensor, token: Tensor, length: int) -> Tensor:
    """Compute the log-likelihoods of targets from the logits of all positions."""
    targets = torch.stack([row, column + logits.shape[1] - length, token]).to(logits.device)
    values = [
        token_logprobs(logits[r, c], torch.arange(len(t), device=t.device), t)
        for r, c, t in torch.split(targets, chunk_size(logits.shape[-1], logits.device), 1)
    ]
    return torch.cat(values)
