"""Training batches with the numbers that a step needs on the host.

Reading a tensor of the device waits until the device has finished all work so far. So numbers are taken from a batch
before its tensors go to the device.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHOICES = "choices"
"""Key of a batch whose rows may have several texts: how many candidates each row has, or 0 if it is a single text."""


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What a batch contains.

    Attributes:
        targets: Number of targets that the loss is summed over.
        input_tokens: Number of source tokens, without padding.
        tokens: Number of tokens that the model reads on both sides, without padding.
    """

    targets: int
    input_tokens: int
    tokens: int


class CollatedBatch(dict[str, Tensor]):
    """A batch, or some rows of one, with numbers on the host.

    Args:
        tensors: The tensors by name.
        lengths: Number of tokens of each text, without padding.
        choices: The values of ``choices``; empty if the batch has no such tensor.
        counts: The counts of the whole batch; None for some rows of one.
        text_keys: What identifies each text; empty if nothing needs it.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        lengths: Sequence[int],
        choices: Sequence[int] = (),
        counts: BatchCounts | None = None,
        text_keys: Sequence[bytes] = (),
    ) -> None:
        super().__init__(tensors)
        self.lengths, self.choices, self.counts, self.text_keys = lengths, choices, counts, text_keys

    def __reduce__(self) -> Any:
        return CollatedBatch, (dict(self), self.lengths, self.choices, self.counts, self.text_keys)

    def to(self, device: torch.device) -> CollatedBatch:
        """Return the batch on a device; pinned tensors are copied while the device computes.

        Args:
            device: The device.
        """
        pinned = device.type == "cuda"
        moved = {key: value.to(device, non_blocking=pinned) for key, value in self.items()}
        return CollatedBatch(moved, self.lengths, self.choices, self.counts, self.text_keys)


def with_tensors(batch: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch with other tensors; it keeps its numbers on the host if it has some.

    Args:
        batch: The batch; its texts are tensors of shape (texts, length).
        tensors: The tensors to add or to replace, by name, of any shape.

    Returns:
        The batch, whose texts are tensors of shape (texts, length).
    """
    changed = copy.copy(batch) if isinstance(batch, CollatedBatch) else dict(batch)
    changed.update(tensors)
    return changed


def keys_of(batch: Mapping[str, Tensor]) -> Sequence[bytes]:
    """Return what identifies each text of a batch.

    Args:
        batch: A collated batch, or some rows of one; its texts are tensors of shape (texts, length).
    """
    return batch.text_keys if isinstance(batch, CollatedBatch) else ()


def num_rows(batch: Mapping[str, Tensor]) -> int:
    """Return the number of rows of a batch, each with one or several texts.

    Args:
        batch: The batch; its texts are tensors of shape (texts, length).
    """
    return len(batch[CHOICES] if CHOICES in batch else batch["input_ids"])


def choices_per_row(batch: Mapping[str, Tensor]) -> list[int]:
    """Return the values of ``choices``, from the host if they are known there.

    Args:
        batch: A batch with this tensor, of shape (rows,).

    Returns:
        The number of candidates of each row, or 0 if it is a single text.
    """
    return [*batch.choices] if isinstance(batch, CollatedBatch) else batch[CHOICES].tolist()  # type: ignore[no-any-return]
