"""Pads the token ids of a batch to a common length, on the right or on the left, and splits batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from peftkit.components.types import IGNORE_INDEX
from peftkit.models.batches.collated_batch import CHOICES, CollatedBatch, choices_per_row, with_tensors
from peftkit.models.special_tokens import embedding_size

TARGET_POSITIONS = "target_positions"
"""Key of a batch: the positions that predict targets, a tensor of shape (1, targets); see ``target_positions``."""


def find_pad_id(tokenizer: PreTrainedTokenizerBase, config: Any) -> int:
    """Return the padding id: the config's if there is one, otherwise any id that has an embedding.

    RoBERTa derives positions from the config's id. Padding is masked, so the id may equal the end of text.

    Args:
        tokenizer: the model's tokenizer.
        config: the model's config.
    """
    sizes = [size for side in ("encoder", "decoder") if (size := embedding_size(config, side))]
    known = (getattr(config, "pad_token_id", None), tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((i for i in known if isinstance(i, int) and 0 <= i < min(sizes, default=i + 1)), 0)


def pad_sequences(
    sequences: Sequence[Sequence[int]],
    pad_value: int,
    *,
    left: bool = False,
    multiple: int = 1,
    max_length: int | None = None,
) -> Tensor:
    """Pad sequences to a common length, a multiple of ``multiple`` where ``max_length`` allows it.

    Args:
        sequences: token ids, labels or positions.
        pad_value: the value to pad with.
        left: whether to pad on the left, as before generation, instead of on the right.
        multiple: pad to a multiple of this length.
        max_length: the model's last position; padding does not go beyond it. None if positions are unlimited.

    Returns:
        A tensor of shape (sequences, length).
    """
    longest = max(map(len, sequences))
    length = -(-longest // multiple) * multiple
    if max_length is not None:  # no padding beyond the last position
        length = max(longest, min(length, max_length))
    padding = [[pad_value] * (length - len(each)) for each in sequences]
    return torch.tensor([p + list(s) if left else list(s) + p for s, p in zip(sequences, padding, strict=True)])


def attention_mask(sequences: Sequence[Sequence[int]], **options: Any) -> Tensor:
    """Build the attention mask of padded sequences: 1 for tokens, 0 for padding.

    Args:
        sequences: the sequences before padding.
        options: the other arguments of ``pad_sequences``.

    Returns:
        A tensor of shape (sequences, length).
    """
    return pad_sequences([[1] * len(each) for each in sequences], 0, **options)


def pad_batch(batch: Mapping[str, Tensor], lengths: Mapping[str, int], pad_id: int) -> dict[str, Tensor]:
    """Pad a collated batch further, on the right.

    Args:
        batch: a collated batch; its texts are tensors of shape (rows, length).
        lengths: the new length of each tensor, by its key; at least its current length.
        pad_id: the padding id of token ids.

    Returns:
        The batch with tensors of shape (rows, new length).
    """
    pad_values = {"attention_mask": 0, "token_type_ids": 0, "labels": IGNORE_INDEX}
    padded = {
        key: pad(batch[key], (0, length - batch[key].shape[1]), value=pad_values.get(key, pad_id))
        for key, length in lengths.items()
    }
    return with_tensors(batch, padded)


def padded_lengths(batch: Mapping[str, Tensor], multiple: int) -> dict[str, list[int]]:
    """Return the length that each text alone would be padded to, on each side.

    Args:
        batch: a collated batch; its texts are tensors of shape (texts, length).
        multiple: texts are padded to a multiple of this length; targets of a decoder are not.

    Returns:
        The lengths by the key of the side's tensor.
    """
    unpadded = {"input_ids": batch["attention_mask"]}
    if "decoder_input_ids" in batch:
        unpadded["decoder_input_ids"] = batch["labels"] != IGNORE_INDEX
    return {key: [-(-n // multiple) * multiple for n in mask.sum(-1).tolist()] for key, mask in unpadded.items()}


def target_positions(columns: Sequence[Sequence[int]]) -> Tensor:
    """Number the positions that predict targets, all columns one after the other, so that padding changes no number.

    Args:
        columns: the columns of each text.

    Returns:
        The numbers, without any padding, of shape (1, targets).
    """
    numbers = [column * len(columns) + text for text, each in enumerate(columns) for column in each]
    return torch.tensor([numbers], dtype=torch.long)


def texts_and_columns(positions: Tensor, texts: int) -> tuple[Tensor, Tensor]:
    """Return the texts and the columns of positions.

    Args:
        positions: what ``target_positions`` returned, of shape (1, targets).
        texts: the number of texts.

    Returns:
        The indices of the texts and of the columns, both of shape (targets,).
    """
    return positions[0] % texts, positions[0] // texts


def _part_of_positions(positions: Tensor, texts: int, part: slice) -> Tensor:
    """Return the positions that are those of some texts, for a batch of these."""
    first, last, _ = part.indices(texts)
    if last - first == texts:  # without waiting for the device, which a selection does
        return positions
    text, column = texts_and_columns(positions, texts)
    chosen = (text >= first) & (text < last)
    return (column * (last - first) + text - first)[chosen][None]


def split_batch(batch: Mapping[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
    """Split a collated batch by rows; the texts of a row stay together.

    Args:
        batch: a collated batch; its tensors have shape (rows, …) or (texts, …), or are scalars.
        size: maximum number of rows of a part.

    Returns:
        The parts, with tensors of shape (at most size, …) or (their texts, …).

    Raises:
        ValueError: a tensor has neither an entry for each row nor one for each text.
    """
    texts = len(batch["input_ids"])
    choices = choices_per_row(batch) if CHOICES in batch else []
    texts_per_row = [max(1, n) for n in choices] if CHOICES in batch else [1] * texts
    rows = len(texts_per_row)
    tensors = {key: value for key, value in batch.items() if key != TARGET_POSITIONS}
    for key, value in tensors.items():
        if value.ndim and len(value) not in (rows, texts):
            expected = f"{rows}, as many as rows" + (f", or {texts}, as many as texts" if texts != rows else "")
            raise ValueError(f"the tensor {key!r} of a batch has {len(value)} entries; it must have {expected}")
    first_text = 0
    for start in range(0, rows, size):
        num_texts = sum(texts_per_row[start : start + size])
        of_rows, of_texts = slice(start, start + size), slice(first_text, first_text + num_texts)
        part = {k: v[of_rows if len(v) == rows else of_texts] if v.ndim else v for k, v in tensors.items()}
        if TARGET_POSITIONS in batch:
            part[TARGET_POSITIONS] = _part_of_positions(batch[TARGET_POSITIONS], texts, of_texts)
        if isinstance(batch, CollatedBatch):
            part = CollatedBatch(part, batch.lengths[of_texts], choices[of_rows], text_keys=batch.text_keys[of_texts])
        yield part
        first_text += num_texts


def max_lengths(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, int]:
    """Return the largest padded length among batches for each tensor of texts, by its key."""
    keys = sorted(key for key, value in batches[0].items() if value.ndim == 2 and key != TARGET_POSITIONS)
    return {key: max(batch[key].shape[1] for batch in batches) for key in keys}
