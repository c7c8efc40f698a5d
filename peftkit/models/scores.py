"""Log-likelihoods of tokens, from logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from peftkit.components.inputs import IGNORE_INDEX


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
    return cross_entropy(
        at_least_float32(logits).flatten(0, -2), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )


def target_loglikelihoods(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the log-likelihoods of the labels of each row.

    Args:
        logits: logits of shape (rows, length, vocabulary).
        labels: label ids of shape (rows, length); ``IGNORE_INDEX`` where there is no target.

    Returns:
        The sum of each row in nats, and the number of its labels, both of shape (rows,).
    """
    losses = cross_entropy(
        at_least_float32(logits).flatten(0, -2), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return -losses.view(len(labels), -1).sum(1), (labels != IGNORE_INDEX).view(len(labels), -1).sum(1)


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
