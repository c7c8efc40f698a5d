"""Steps with a number of tokens instead of a number of rows (``train.tokens_per_batch``)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TypeVar

from torch.utils.data import Sampler

from peftkit.errors import RunError

Item = TypeVar("Item")


@dataclass(frozen=True)
class RowsPerStep:
    """How many rows the steps of an epoch have, over all processes."""

    fewest: int
    mean: float
    most: int

    @classmethod
    def from_sizes(cls, sizes: Sequence[int]) -> RowsPerStep:
        """Summarize the number of rows of each step."""
        return cls(min(sizes), sum(sizes) / len(sizes), max(sizes))


class TokenBatchSampler(Sampler[list[int]]):
    """Samples the microbatches of one process, where the rows of a step fit a number of tokens.

    As in fairseq, all rows are sorted by length and cut into steps. So every epoch has as many steps, of as many rows
    and tokens, and no row is left out. Which rows of equal length share a step, and the order of the steps, depend on
    the seed and the epoch, but not on the number of processes.

    Args:
        lengths: Number of tokens of each row.
        tokens: Tokens of a step; the longest row of a step, times its rows, does not exceed it.
        seed: Seed of the order.
        microbatches: Microbatches per step and process.
        processes: Number of processes.
        rank: Number of this process, from 0.

    Attributes:
        epoch: The current epoch, from 0.
        start: Number of steps to skip at the start of the epoch, for a run that was resumed within it.

    Raises:
        RunError: A row does not fit, or a step would have fewer rows than microbatches.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        tokens: int,
        seed: int,
        *,
        microbatches: int = 1,
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        self.lengths, self.seed, self.epoch, self.start = lengths, seed, 0, 0
        self.microbatches, self.processes, self.rank = microbatches, processes, rank
        self._sizes = step_sizes(lengths, tokens)
        check_step_sizes(self._sizes, tokens, microbatches * processes)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order is used."""
        self.epoch = epoch

    def steps(self) -> list[list[int]]:
        """Returns the rows of each step of the epoch, over all processes."""
        rng = random.Random(f"{self.seed}/{self.epoch}")  # noqa: S311 - not used for security
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        order.sort(key=self.lengths.__getitem__, reverse=True)
        steps = [order[start:end] for start, end in pairwise(accumulate(self._sizes, initial=0))]
        rng.shuffle(steps)
        return steps[self.start :]

    def __len__(self) -> int:
        return len(self._sizes) * self.microbatches

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.steps():
            yield from divide_rows(rows, self.microbatches * self.processes)[self.rank :: self.processes]


def step_sizes(lengths: Sequence[int], tokens: int) -> list[int]:
    """Cut rows into steps, from the longest row on.

    The last two steps share their rows evenly where the last one would have fewer than the one before.

    Args:
        lengths: Number of tokens of each row.
        tokens: Tokens of a step.

    Returns:
        The number of rows of each step.

    Raises:
        RunError: A row does not fit.
    """
    ordered = sorted(lengths, reverse=True)
    if ordered[0] > tokens:
        raise RunError(
            f"the longest training row has {ordered[0]:,} tokens, more than train.tokens_per_batch = {tokens:,}; "
            "raise it, or lower train.max_source_length"
        )
    sizes, start = list[int](), 0
    while start < len(ordered):
        sizes.append(min(tokens // max(1, ordered[start]), len(ordered) - start))
        start += sizes[-1]
    if len(sizes) > 1 and sizes[-1] < sizes[-2]:
        both = sizes[-2] + sizes[-1]
        sizes[-2:] = [both - both // 2, both // 2]
    return sizes


def check_step_sizes(sizes: Sequence[int], tokens: int, parts: int) -> None:
    """Check that every step has a row for each microbatch of each process.

    Args:
        sizes: The number of rows of each step.
        tokens: Tokens of a step.
        parts: Microbatches of a step, over all processes.

    Raises:
        RunError: A step has fewer rows.
    """
    if min(sizes) < parts:
        raise RunError(
            f"an optimizer step of train.tokens_per_batch = {tokens:,} has {min(sizes)} rows, fewer than its {parts} "
            "microbatches (gradient_accumulation_steps × processes); raise train.tokens_per_batch"
        )


def divide_rows(rows: Sequence[Item], parts: int) -> list[list[Item]]:
    """Divide the rows of a step into parts of nearly as many rows.

    Args:
        rows: The rows; at least as many as parts.
        parts: The number of parts.
    """
    bounds = [len(rows) * part // parts for part in range(parts + 1)]
    return [[*rows[start:end]] for start, end in pairwise(bounds)]
