"""Log-likelihoods of tokens, from logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, log_softmax, nll_loss

from peftkit.components.types import IGNORE_INDEX

CACHED_NUMBERS = 2**17
"""How many numbers a CPU processes together, so that they stay in its cache."""
EXPONENTIALS = 16
"""Number of positions whose exponentials are computed at once on a CPU."""


def tolerance(model: nn.Module, device: torch.device) -> float:
    """Return the relative tolerance between results of the same computation in tensors of different shapes.

    Args:
        model: the model; its least precise dtype counts.
        device: the device; autocast and TF32 count.
    """
    if torch.is_autocast_enabled(device.type):
        dtypes = {torch.get_autocast_dtype(device.type)}
    else:
        dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        dtypes.add(torch.float16)  # has as many mantissa bits as TF32
    return max(1e-4, *(2 * torch.finfo(dtype).eps for dtype in dtypes))


def at_least_float32(logits: Tensor) -> Tensor:
    """Convert logits of any shape to float32, or leave them in float64."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def sum_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum the cross-entropy of labels.

    Args:
        logits: logits of shape (rows, length, classes) or (rows, classes).
        labels: labels of shape (rows, length) or (rows,); ``IGNORE_INDEX`` where there is no target.

    Returns:
        A scalar, in nats.
    """
    loss: Tensor = _SummedCrossEntropy.apply(at_least_float32(logits).flatten(0, -2), labels.flatten())  # type: ignore[no-untyped-call]
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    """Sums a cross-entropy; its gradient overwrites the log-probabilities.

    torch would hold two more tensors of the size of the logits, which is what a large vocabulary costs most.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the sum, a scalar, of logits of shape (positions, classes) and labels of shape (positions,)."""
        log_probs = log_softmax(logits, -1)
        ctx.save_for_backward(log_probs, labels)
        return nll_loss(log_probs, labels, ignore_index=IGNORE_INDEX, reduction="sum")

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the logits, of shape (positions, classes)."""
        log_probs, labels = ctx.saved_tensors  # torch raises if they have been overwritten
        is_target = labels != IGNORE_INDEX
        weights = (gradient * is_target)[:, None]
        size = max(1, CACHED_NUMBERS // log_probs.shape[1]) if log_probs.device.type == "cpu" else len(log_probs)
        for part, weight in zip(log_probs.split(max(1, size)), weights.split(max(1, size)), strict=True):
            part.exp_().mul_(weight)
        return log_probs.scatter_add_(1, (labels * is_target)[:, None], -weights), None


def target_loglikelihoods(
    logits: Tensor, labels: Tensor, rows: Tensor | None = None, num_rows: int = 0
) -> tuple[Tensor, Tensor]:
    """Sum the log-likelihoods of the labels of each row.

    Args:
        logits: logits of shape (rows, length, vocabulary); or of shape (1, targets, vocabulary).
        labels: label ids of shape (rows, length); ``IGNORE_INDEX`` where there is no target. Or of shape (1, targets).
        rows: the row of each target, of shape (targets,); None if labels have a row for each.
        num_rows: the number of rows, if ``rows`` are given.

    Returns:
        The sum of each row in nats, and the number of its labels, both of shape (rows,).
    """
    losses = cross_entropy(
        at_least_float32(logits).flatten(0, -2), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    if rows is None:
        return -losses.view(len(labels), -1).sum(1), (labels != IGNORE_INDEX).view(len(labels), -1).sum(1)
    # Not by ``index_add``, whose order of additions differs between runs on a GPU.
    is_of_row = rows == torch.arange(num_rows, device=rows.device)[:, None]
    return -torch.where(is_of_row, losses, 0).sum(1), is_of_row.sum(1)


def sum_logprobs(logits: Tensor, labels: Tensor) -> tuple[list[float], list[int]]:
    """Sum the log-likelihoods of the labels of each row.

    Args:
        logits: logits of shape (rows, length, vocabulary).
        labels: label ids of shape (rows, length); ``IGNORE_INDEX`` where there is no target.

    Returns:
        The sum of each row in nats, and the number of its labels.
    """
    sums, counts = target_loglikelihoods(logits, labels)
    return sums.tolist(), counts.tolist()


def token_logprobs(logits: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """Compute the log-likelihoods of tokens.

    On a CPU this is several times as fast as ``log_softmax``, which writes all log-likelihoods.

    Args:
        logits: logits of shape (positions, vocabulary).
        positions: for each token, the position that predicts it, of shape (tokens,).
        tokens: token ids of shape (tokens,).

    Returns:
        Log-likelihoods in nats, of shape (tokens,).
    """
    logits = at_least_float32(logits)
    return logits[positions, tokens] - _log_normalizers(logits)[positions]


def _log_normalizers(logits: Tensor) -> Tensor:
    """Compute the log of the sum of exponentials of each position."""
    if logits.device.type != "cpu":
        return logits.logsumexp(-1)
    # Sums of usual logits neither overflow nor vanish, so nothing has to be subtracted first. The exponentials of a few
    # positions stay in the processor's caches.
    exponentials = torch.empty_like(logits[:EXPONENTIALS])
    sums = torch.cat(
        [torch.exp(part, out=exponentials[: len(part)]).sum(-1) for part in torch.split(logits, EXPONENTIALS)]
    )
    limits = torch.finfo(sums.dtype)
    if bool(((sums > limits.tiny**0.5) & (sums < limits.max)).all()):
        return sums.log_()
    largest = logits.amax(-1)
    return (logits - largest[:, None]).exp_().sum(-1).log_() + largest
