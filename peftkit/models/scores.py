"""Tokenized rows, and the log-likelihoods of their candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORE_INDEX = -100
"""The label of positions that do not count towards the loss (the default ``ignore_index`` of torch)."""


class TokenizedRow(TypedDict):
    """One tokenized example.

    Attributes:
        source: token ids of the source, including special tokens; empty for an encoder that scores pairs.
        candidates: token ids of each candidate, or of the target alone where nothing is ranked. For an encoder, each
            is a whole input of source and choice; it is empty for fixed labels.
        answer: index of the target among the candidates.
        source_tokens: length of the source before truncation.
        target_tokens: length of the longest candidate before truncation.
        segments: token type ids of an encoder's pairs, if the tokenizer has them.
    """

    source: list[int]
    candidates: list[list[int]]
    answer: int
    source_tokens: int
    target_tokens: int
    segments: NotRequired[list[list[int]]]


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """Log-likelihoods of the candidates of a batch of rows.

    Attributes:
        sums: for each row, the log-likelihood of each candidate in nats, summed over its tokens.
        tokens: for each row, the number of tokens of each candidate.
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
