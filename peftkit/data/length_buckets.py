"""Orders the rows of an epoch, so that every effective batch has rows of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

BUCKET = 50
"""Number of effective batches that are sorted by length together."""


class LengthBucketSampler(Sampler[int]):
    """Samples rows in a seeded order in which every effective batch has rows of similar length.

    The order depends on the seed, the epoch and the effective batch size, but not on the number of processes. Rows
    that do not fill the last effective batch are left out of the epoch; each epoch leaves out others at random.

    Attributes:
        lengths: Number of tokens of each row.
        batch: Effective batch size.
        seed: Seed of the order.
        epoch: The current epoch, from 0.
        start: Number of batches to skip at the start of the epoch, for a run that was resumed within it.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch, self.start = lengths, batch, seed, 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order is used."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) // self.batch * self.batch

    def steps(self) -> list[list[int]]:
        """Returns the rows of each step of the epoch, over all processes."""
        rng = random.Random(f"{self.seed}/{self.epoch}")  # noqa: S311 - not used for security
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        order = order[: len(self)]
        batches: list[list[int]] = []
        for start in range(0, len(order), self.batch * BUCKET):
            batches += batch_similar_lengths(order[start : start + self.batch * BUCKET], self.lengths, self.batch)
        rng.shuffle(batches)
        return batches[self.start :]

    def __iter__(self) -> Iterator[int]:
        for batch in self.steps():
            yield from batch


def batch_similar_lengths(rows: Sequence[int], lengths: Sequence[int], batch: int) -> list[list[int]]:
    """Splits rows into batches of similar length.

    Args:
        rows: Indices of the rows.
        lengths: Number of tokens by index.
        batch: Batch size.

    Returns:
        Indices of the rows of each batch; the last batch may be smaller.
    """
    ordered = sorted(rows, key=lengths.__getitem__)
    return [ordered[i : i + batch] for i in range(0, len(ordered), batch)]
