"""Log-likelihoods of the candidates of tokenized rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from peftkit.models.tokenized_row import IGNORE_INDEX


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """Log-likelihoods of the candidates of a batch of rows.

    Attributes:
        loglikelihoods: for each row, the log-likelihood of each candidate in nats, summed over its tokens.
        num_tokens: for each row, the number of tokens of each candidate.
    """

    loglikelihoods: list[list[float]]
    num_tokens: list[list[int]]


def at_least_float32(logits: Tensor) -> Tensor:
    """Convert logits of any shape to float32, or leave them in float64."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def sum_logprobs(logits: Tensor, labels: Tensor) -> tuple[list[float], list[int]]:
    """Sum the log-likelihoods of the labels of each row.

    Args:
        logits: logits of shape (rows, length, vocabulary).
        labels: label ids of shape (rows, length); ``IGNORE_INDEX`` where there is no target.

    Returns:
        The sum of each row in nats, and the number of its labels.
    """
    losses = cross_entropy(
        at_least_float32(logits).flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return (-losses.view(labels.shape).sum(1)).tolist(), (labels != IGNORE_INDEX).sum(1).tolist()
