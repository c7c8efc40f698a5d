"""Texts that a model reads as a whole, and the hidden states that it computes for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.errors import RowError
from peftkit.models.batches.collated_batch import CHOICES
from peftkit.models.batches.padding import attention_mask, pad_sequences
from peftkit.models.batches.padding_check import group_equal_lengths, ignores_padding
from peftkit.models.decoding.prefix_cache import accepts_argument
from peftkit.models.heads.token_losses import tolerance
from peftkit.models.lengths.truncation import truncate_end
from peftkit.models.special_tokens import SpecialTokens, token_ids


def no_model_file(name: str) -> Any:
    """Return None, as for a model without files."""
    return None


class TextStates:
    """The part of a model family that reads whole texts, whatever its models are trained for."""

    tokenizer: Any
    max_source_length: int
    max_encoder_length: int | None
    max_decoder_length: int | None
    pad_to_multiple_of: int

    @property
    def special_tokens(self) -> SpecialTokens:
        """The special tokens that the tokenizer adds to a source."""
        raise NotImplementedError

    @property
    def pad_id(self) -> int:
        """The padding id."""
        raise NotImplementedError

    def _check_ids(self, ids: list[int], field: str, side: Any) -> list[int]:
        raise NotImplementedError

    def tokenize_texts(self, texts: Sequence[str]) -> list[tuple[list[int], int]]:
        """Tokenize texts as whole inputs with the tokenizer's special tokens.

        Args:
            texts: the texts.

        Returns:
            For each text, its ids, truncated at the end, and their number before truncation.

        Raises:
            RowError: a text has no tokens, or one that the model has no embedding for.
        """
        tokenized = []
        for text, bare in zip(texts, token_ids(self.tokenizer, texts, special=False), strict=True):
            if not bare:
                raise RowError("source", f"{text!r} has no token in the model's vocabulary")
            ids = self.special_tokens.wrap(bare)
            kept = truncate_end(ids, self.max_source_length, self.special_tokens)
            tokenized.append((self._check_ids(kept, "source", "encoder"), len(ids)))
        return tokenized

    def collate_texts(self, rows: Sequence[Sequence[list[int]]]) -> dict[str, Tensor]:
        """Pad and stack the texts of rows.

        Args:
            rows: the token ids of each text of each row.

        Returns:
            ``input_ids`` and ``attention_mask`` of shape (texts, length), ``choices``, the number of texts of each row,
            of shape (rows,), and the scalar ``input_tokens``.
        """
        texts = [text for row in rows for text in row]
        max_length = self.max_decoder_length if self.max_encoder_length is None else self.max_encoder_length
        options: dict[str, Any] = {"multiple": self.pad_to_multiple_of, "max_length": max_length}
        return {
            "input_ids": pad_sequences(texts, self.pad_id, **options),
            "attention_mask": attention_mask(texts, **options),
            CHOICES: torch.tensor([len(row) for row in rows]),
            "input_tokens": torch.tensor(sum(map(len, texts))),
        }

    def hidden_states(self, model: nn.Module, batch: Mapping[str, Tensor], *, exact: bool = False) -> Tensor:
        """Run a model without a head on texts.

        Args:
            model: the model.
            batch: a batch of ``collate_texts``; its texts are tensors of shape (texts, length).
            exact: whether no text's states may depend on the padding; the model is then in evaluation mode.

        Returns:
            The hidden states of the last layer, of shape (texts, length, features).
        """
        states = _run(model, batch)
        if not exact:
            return states
        lengths = batch["attention_mask"].sum(1).tolist()

        def without_padding(indices: list[int]) -> Tensor:
            length = lengths[indices[0]]
            return _run(model, {key: batch[key][indices, :length] for key in ("input_ids", "attention_mask")})

        def differs() -> bool | None:
            shortest = min(range(len(lengths)), key=lengths.__getitem__)
            if lengths[shortest] == states.shape[1]:
                return None
            padded = states[shortest, : lengths[shortest]]
            difference = (without_padding([shortest])[0] - padded).abs().max().item()
            return difference > 10 * tolerance(model, states.device) * max(1.0, padded.abs().max().item())

        if not ignores_padding(model, differs):
            for indices in group_equal_lengths([range(length) for length in lengths]):
                states[indices, : lengths[indices[0]]] = without_padding(indices)
        return states


def _run(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the states of the texts, of shape (texts, length, features)."""
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"]}
    unwrapped: nn.Module = getattr(model, "module", model)
    # FNet takes no attention mask in transformers 4.
    if accepts_argument(unwrapped, "attention_mask") or accepts_argument(unwrapped, "kwargs"):
        inputs["attention_mask"] = batch["attention_mask"]
    if accepts_argument(unwrapped, "use_cache"):
        inputs["use_cache"] = False
    states: Tensor = model(**inputs).last_hidden_state
    # Prompt methods prepend positions to those of the text.
    return states[:, -batch["input_ids"].shape[1] :]
