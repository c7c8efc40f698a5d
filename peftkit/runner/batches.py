"""Training rows as seeded batches of like lengths, whether they lie on the disk or are read as they come."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from datasets import IterableDataset as StreamedRows
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Sampler

from peftkit.components import Task
from peftkit.recipe import Recipe
from peftkit.runner.encoding import KEPT, encode_columns
from peftkit.runner.forms import Form, Row

BUCKET = 50  # effective batches that are sorted by length together
SHUFFLED = 10_000  # rows of a stream among which the next one is drawn
TAKEN = ("input_ids", "attention_mask", "decoder_input_ids", "labels")
INDEX = "\x1fpeftkit/index"


def effective_batch(recipe: Recipe, processes: int) -> int:
    """Rows of one optimizer step, over all processes."""
    return recipe.train.batch_size * recipe.train.gradient_accumulation_steps * processes


class LengthBucketSampler(Sampler[int]):
    """Rows in a seeded order in which each effective batch holds rows of like length.

    The order depends on the seed, the epoch and the effective batch only, not on how many processes share it. The
    rows that do not fill the last effective batch are left out of that epoch; which ones, chance decides anew each
    epoch. The first ``start`` batches of an epoch are passed over, for a run that was resumed within it.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch, self.start = lengths, batch, seed, 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of that epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) // self.batch * self.batch

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed}/{self.epoch}")  # noqa: S311 - an order, no secret
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        order = order[: len(self)]
        batches: list[list[int]] = []
        for start in range(0, len(order), self.batch * BUCKET):
            batches += by_length(order[start : start + self.batch * BUCKET], self.lengths, self.batch)
        rng.shuffle(batches)
        for batch in batches[self.start :]:
            yield from batch


class Stream(IterableDataset[Row]):
    """Training rows that are read, shuffled in a buffer and encoded as they are needed; no more is held than that.

    As with ``LengthBucketSampler`` the order depends on the seed, the epoch and the effective batch only.
    """

    def __init__(self, rows: StreamedRows, task: Task, form: Form, batch: int, seed: int) -> None:
        # Several files are shuffled as such too, so that a row's number says nothing.
        several = rows.num_shards > 1
        numbered = rows.map(lambda row, index: {**row, INDEX: -1 if several else index}, with_indices=True)
        self.rows = numbered.shuffle(seed=seed, buffer_size=SHUFFLED)
        self.task, self.form, self.batch, self.seed, self.epoch, self.start = task, form, batch, seed, 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of that epoch."""
        self.epoch = epoch
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[Row]:
        rng = random.Random(f"{self.seed}/{self.epoch}")  # noqa: S311 - an order, no secret
        done = self.start
        for columns in self.rows.iter(batch_size=self.batch * BUCKET):
            indices = columns.pop(INDEX)
            if done >= BUCKET:  # trained on before the run was resumed: only the order of its batches is drawn
                rng.shuffle(list(range(len(indices) // self.batch)))
                done -= BUCKET
                continue
            made = encode_columns(self.task, self.form, columns, indices)
            whole = len(indices) // self.batch * self.batch
            batches = by_length(range(whole), made["length"], self.batch)
            rng.shuffle(batches)
            skipped, done = done, 0
            for number in (number for batch in batches[skipped:] for number in batch):
                yield {key: made[key][number] for key in KEPT}  # type: ignore[misc]


def first_batches(
    recipe: Recipe, rows: Dataset | Stream, form: Form, model: nn.Module, batch: int, number: int
) -> list[dict[str, Tensor]]:
    """The first effective batches of the training rows, whole and the same on every process, as a model takes them."""
    taken = (*TAKEN, "token_type_ids") if form.numbers_segments(model) else TAKEN
    if isinstance(rows, Dataset):
        order = islice(LengthBucketSampler(rows["length"][:], batch, recipe.run.effective_order_seed), number * batch)
        chosen: Iterable[Row] = [{key: row[key] for key in _kept(rows)} for row in map(rows.__getitem__, order)]  # type: ignore[misc]
    else:
        chosen = islice(iter(rows), number * batch)
    held = list(chosen)
    groups = (held[start : start + batch] for start in range(0, len(held), batch))
    return [{key: value for key, value in form.batch(group).items() if key in taken} for group in groups]


def extreme_batches(recipe: Recipe, rows: Dataset | Stream, form: Form) -> list[dict[str, Tensor]]:
    """A process's batches of the shortest and of the longest training rows; none of a stream, which nobody knows."""
    if not isinstance(rows, Dataset):
        return []
    columns = [np.asarray(rows[key][:]) for key in ("length", "source_tokens", "target_tokens")]
    kept = rows.select_columns(_kept(rows))
    shortest = form.batch([kept[int(columns[0].argmin())]] * recipe.train.batch_size)  # type: ignore[list-item]
    longest = form.batch([kept[int(column.argmax())] for column in columns])  # type: ignore[misc]
    return [shortest, form.widened(shortest, form.widths([longest]))]


def _kept(rows: Dataset) -> list[str]:
    """The columns of encoded rows that a form reads; not all have ``segments``."""
    return [key for key in KEPT if key in rows.column_names]


def by_length(rows: Sequence[int], lengths: Sequence[int], batch: int) -> list[list[int]]:
    """The rows cut into batches of like lengths."""
    ordered = sorted(rows, key=lengths.__getitem__)
    return [ordered[i : i + batch] for i in range(0, len(ordered), batch)]


def training_batches(
    recipe: Recipe, rows: Dataset | Stream, form: Form, accelerator: Accelerator
) -> tuple[DataLoader[Any], LengthBucketSampler | Stream]:
    """The training rows as this process's share of the batches, and what orders them.

    Call the loader's ``set_epoch`` before each epoch, and set the ``start`` of the order after it.
    """
    batch = effective_batch(recipe, accelerator.num_processes)
    options: dict[str, Any] = {}
    if isinstance(rows, Dataset):
        order: LengthBucketSampler | Stream = LengthBucketSampler(
            rows["length"][:], batch, recipe.run.effective_order_seed
        )
        options["sampler"] = order
        rows = rows.select_columns(_kept(rows))
    else:
        order = rows
    loader: DataLoader[Any] = DataLoader(
        rows,  # type: ignore[arg-type]
        batch_size=recipe.train.batch_size,
        collate_fn=form.batch,
        num_workers=recipe.train.workers,
        drop_last=True,
        **options,
    )
    prepared: DataLoader[Any] = accelerator.prepare_data_loader(loader)
    return prepared, order
