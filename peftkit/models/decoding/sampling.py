"""Samples texts so that none depends on the rest of its batch.

Every token is the most likely one of logits to which Gumbel noise has been added, which is a sample of their softmax
(Maddison, Tarlow and Minka, 2014, "A* Sampling"). So sampling is greedy search with a logits processor. The noise
depends on the row's seed and on the number of tokens before it, whatever rows are computed together.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from peftkit.components.types import RowSampling


class GumbelNoise(LogitsProcessor):
    """Adds noise to logits, so that the largest is a sample.

    Args:
        seeds: the seed of each row.
        position: the number of tokens that have been generated before.
    """

    def __init__(self, seeds: Sequence[int], position: int) -> None:
        self.seeds, self.position = seeds, position

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Add noise to the logits of the next token.

        Args:
            input_ids: the ids so far, of shape (rows, length).
            scores: the logits, of shape (rows, vocabulary).

        Returns:
            The sums, of shape (rows, vocabulary).
        """
        generator = torch.Generator(device=scores.device)
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, seed in zip(noise, self.seeds, strict=True):
            digest = blake2b(f"{seed} {self.position}".encode(), digest_size=7).digest()
            generator.manual_seed(int.from_bytes(digest))
            row.exponential_(generator=generator)
        self.position += 1
        return scores.float() - noise.log()


def make_processors(sampling: RowSampling, rows: Sequence[int], position: int) -> LogitsProcessorList:
    """Return what turns greedy search into sampling.

    Args:
        sampling: how texts are sampled.
        rows: the indices of the rows that are continued.
        position: the number of tokens that have been generated for them.
    """
    processors = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    processors.append(GumbelNoise([sampling.seeds[row] for row in rows], position))
    return processors
