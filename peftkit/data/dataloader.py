"""The training data loader, and the rows of streams; ``length_buckets`` decides which rows share a batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from datasets import IterableDataset as HFIterableDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from peftkit.components.types import Row
from peftkit.data.length_buckets import BUCKET, LengthBucketSampler, batch_similar_lengths
from peftkit.data.token_batches import TokenBatchSampler, step_sizes
from peftkit.data.tokenized_split import tokenize_columns
from peftkit.models import BoundObjective
from peftkit.models.batches.padding import TARGET_POSITIONS, max_lengths
from peftkit.recipe import Recipe

SHUFFLE_BUFFER = 10_000
"""Number of rows in the shuffle buffer of a stream."""
MODEL_INPUTS = ("input_ids", "attention_mask", "decoder_input_ids", "labels")
INDEX_COLUMN = "\x1fpeftkit/index"


def effective_batch_size(recipe: Recipe, processes: int) -> int:
    """Returns the number of rows of one optimizer step, over all processes.

    With ``train.tokens_per_batch`` it is the smallest possible number: one for each microbatch.

    Args:
        recipe: The recipe.
        processes: Number of processes.
    """
    rows = recipe.train.batch_size if recipe.train.tokens_per_batch is None else 1
    return rows * recipe.train.gradient_accumulation_steps * processes


class StreamingRows(IterableDataset[Row]):
    """Training rows that are read, shuffled in a buffer and tokenized lazily.

    As with ``LengthBucketSampler``, the order depends on the seed, the epoch and the effective batch size only.

    Attributes:
        rows: The shuffled stream.
        objective: The objective.
        batch: Effective batch size.
        seed: Seed of the order.
        epoch: The current epoch, from 0.
        start: Number of batches to skip at the start of the epoch, for a run that was resumed within it.
    """

    def __init__(self, rows: HFIterableDataset, objective: BoundObjective, batch: int, seed: int) -> None:
        # The shards of a stream are shuffled too, so the number of a row does not locate it.
        sharded = rows.num_shards > 1
        numbered = rows.map(lambda row, index: {**row, INDEX_COLUMN: -1 if sharded else index}, with_indices=True)
        self.rows = numbered.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        self.objective, self.batch, self.seed, self.epoch, self.start = objective, batch, seed, 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order is used."""
        self.epoch = epoch
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[Row]:
        rng = random.Random(f"{self.seed}/{self.epoch}")  # noqa: S311 - not used for security
        remaining = self.start
        for columns in self.rows.iter(batch_size=self.batch * BUCKET):
            indices = columns.pop(INDEX_COLUMN)
            if remaining >= BUCKET:  # skip the whole bucket, but advance the random state as its shuffle would
                rng.shuffle(list(range(len(indices) // self.batch)))
                remaining -= BUCKET
                continue
            tokenized = tokenize_columns(self.objective, "train", columns, indices, training=True).rows
            num_rows = len(indices) // self.batch * self.batch
            batches = batch_similar_lengths(range(num_rows), [row["length"] for row in tokenized], self.batch)
            rng.shuffle(batches)
            skipped, remaining = remaining, 0
            for number in (number for batch in batches[skipped:] for number in batch):
                yield tokenized[number]


TrainRows: TypeAlias = Dataset | StreamingRows
"""The tokenized training rows."""


class EpochBatches(DataLoader[Any]):
    """A data loader that passes the epoch to its batch sampler."""

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order is used."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def row_order(
    recipe: Recipe, rows: Dataset, batch: int, *, processes: int = 1, rank: int = 0
) -> LengthBucketSampler | TokenBatchSampler:
    """Returns the order of the training rows, whose ``steps`` are the same for every number of processes.

    Args:
        recipe: The recipe.
        rows: The tokenized training rows.
        batch: Effective batch size; not used with ``train.tokens_per_batch``.
        processes: Number of processes.
        rank: Number of this process, from 0.

    Raises:
        RunError: A row has more tokens than a step, or a step fewer rows than microbatches.
    """
    train, lengths, seed = recipe.train, rows["length"][:], recipe.run.effective_order_seed
    if train.tokens_per_batch is None:
        return LengthBucketSampler(lengths, batch, seed)
    parts = train.gradient_accumulation_steps
    return TokenBatchSampler(lengths, train.tokens_per_batch, seed, microbatches=parts, processes=processes, rank=rank)


def first_batches(
    recipe: Recipe, rows: TrainRows, objective: BoundObjective, model: nn.Module, batch: int, number: int
) -> list[dict[str, Tensor]]:
    """Returns the first effective batches of the training rows, unsharded and the same on every process.

    Args:
        recipe: The recipe, whose seed decides the order.
        rows: The tokenized training rows.
        objective: The objective.
        model: The model; token type ids are included if it takes them.
        batch: Effective batch size; not used with ``train.tokens_per_batch``.
        number: Number of batches.

    Returns:
        Keyword arguments of the model's forward pass, with tensors of shape (batch, length).
    """
    keys = (*MODEL_INPUTS, "token_type_ids") if objective.family.uses_token_type_ids(model) else MODEL_INPUTS
    if isinstance(rows, Dataset):
        groups = [[*map(rows.__getitem__, step)] for step in row_order(recipe, rows, batch).steps()[:number]]
    else:
        buffered = list(islice(iter(rows), number * batch))
        groups = [buffered[start : start + batch] for start in range(0, len(buffered), batch)]
    return [{key: value for key, value in objective.collate(group).items() if key in keys} for group in groups]


def shortest_and_longest_batch(recipe: Recipe, rows: TrainRows, objective: BoundObjective) -> list[dict[str, Tensor]]:
    """Returns the two batches of one process with the shortest and the longest training rows.

    Args:
        recipe: The recipe.
        rows: The tokenized training rows.
        objective: The objective.

    Returns:
        Two batches, with tensors of shape (rows, length); no batches for streaming rows.
    """
    if not isinstance(rows, Dataset):
        return []
    lengths = [np.asarray(rows[key][:]) for key in ("length", "source_tokens", "target_tokens")]
    number = recipe.train.batch_size
    if recipe.train.tokens_per_batch is not None:
        most = max(step_sizes(lengths[0].tolist(), recipe.train.tokens_per_batch))
        number = -(-most // recipe.train.gradient_accumulation_steps)
    shortest = objective.collate([rows[int(lengths[0].argmin())]] * number)
    longest = objective.collate([rows[int(column.argmax())] for column in lengths])
    family = objective.family
    padded = family.pad_to(shortest, max_lengths([longest]))
    if TARGET_POSITIONS in padded:
        positions = [objective.collate([rows[int(each.argmax())]] * number)[TARGET_POSITIONS] for each in lengths]
        padded[TARGET_POSITIONS] = torch.zeros_like(max(positions, key=torch.Tensor.numel))
    return [shortest, padded]


def train_dataloader(
    recipe: Recipe, rows: TrainRows, collate: Callable[[Sequence[Row]], Any], accelerator: Accelerator
) -> tuple[DataLoader[Any], LengthBucketSampler | TokenBatchSampler | StreamingRows]:
    """Makes the training data loader of this process. Its batches are on the host.

    Call the loader's ``set_epoch`` before each epoch, and set the ``start`` of its sampler after it.

    Args:
        recipe: The recipe.
        rows: The tokenized training rows.
        collate: Builds the batch of some rows, or its parts.
        accelerator: Distributes the batches over the processes.

    Returns:
        The loader, and the sampler or stream that orders its rows.
    """
    processes, rank = accelerator.num_processes, accelerator.process_index
    order: LengthBucketSampler | TokenBatchSampler | StreamingRows = rows  # type: ignore[assignment]
    if isinstance(rows, Dataset):
        order = row_order(recipe, rows, effective_batch_size(recipe, processes), processes=processes, rank=rank)
    options: dict[str, Any] = {
        "collate_fn": collate,
        "num_workers": recipe.train.workers,
        "pin_memory": accelerator.device.type == "cuda",  # otherwise the copy to the device would wait for it
    }
    if isinstance(order, TokenBatchSampler):  # Accelerate would distribute whole batches
        return EpochBatches(rows, batch_sampler=order, **options), order  # type: ignore[arg-type]
    if isinstance(order, LengthBucketSampler):
        options["sampler"] = order
    loader: DataLoader[Any] = DataLoader(
        rows,  # type: ignore[arg-type]
        batch_size=recipe.train.batch_size,
        drop_last=True,
        **options,
    )
    # The trainer moves the batches, since Accelerate would drop their counts.
    prepared: DataLoader[Any] = accelerator.prepare_data_loader(loader, device_placement=False)
    return prepared, order
