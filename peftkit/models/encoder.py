"""The family of encoders with a classification head, such as BERT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from peftkit.components import Example
from peftkit.components.types import CandidateScores, TextWindow, TokenizedRow
from peftkit.errors import LengthError, RowError, summarize_error
from peftkit.models.batches.collated_batch import CHOICES, choices_per_row
from peftkit.models.batches.padding import attention_mask, pad_sequences
from peftkit.models.batches.padding_check import group_equal_lengths, ignores_padding
from peftkit.models.decoding.prefix_cache import accepts_argument
from peftkit.models.family import ModelFamily
from peftkit.models.heads.token_losses import at_least_float32, tolerance
from peftkit.models.lengths.truncation import truncate_context, truncate_pairs
from peftkit.models.lengths.windows import tokenize_windows
from peftkit.models.special_tokens import check_candidates_differ

AVERAGED = "averaged"
"""Key of a batch whose rows are pairs in both orders: the outputs of the texts of a row are averaged."""
PAIR = ("input_ids", "token_type_ids")
"""What a tokenizer returns for a pair of texts."""
T = TypeVar("T")
PER_TEXT = ("input_ids", "attention_mask", "token_type_ids")
"""The tensors whose first dimension is texts instead of rows."""


class SequenceClassifier(ModelFamily):
    """Classifies with one output per label, or scores each (source, choice) pair of a row with a single output."""

    auto_class = "AutoModelForSequenceClassification"
    can_generate = False

    def tokenize_sources(self, examples: Sequence[Example]) -> list[TokenizedRow]:
        singles = [example for example in examples if example.source_pair is None]
        _, _, sources, lengths = self._tokenize_sources(singles)
        tokenized = iter(zip(map(self._truncate_source, sources), lengths, strict=True))
        rows: list[TokenizedRow] = []
        for example in examples:
            segments: list[list[int]] = []
            if example.source_pair is None:
                source, length = next(tokenized)
            elif example.symmetric:
                rows.append(self._tokenize_both_orders(*example.source_pair))
                continue
            else:
                source, types, length = self._tokenize_source_pair(*example.source_pair)
                segments = [types]
            rows.append(
                {
                    "source": source,
                    "candidates": [],
                    "answer": 0,
                    "length": len(source),
                    "source_tokens": length,
                    "target_tokens": 0,
                    "segments": segments,
                }
            )
        return rows

    def _tokenize_source_pair(self, first: str, second: str) -> tuple[list[int], list[int], int]:
        """Tokenize a pair of texts; a pair that is too long loses the end of the longer text.

        Args:
            first: the first text.
            second: the second text.

        Returns:
            The ids and the token type ids of the pair, and its number of tokens before truncation.

        Raises:
            RowError: the tokenizer cannot encode a text, or an id has no embedding.
        """
        try:
            pair = self.tokenizer(first, second, return_token_type_ids=True)
            length = len(pair["input_ids"])
            if length > self.max_source_length:
                options = {"truncation": "longest_first", "max_length": self.max_source_length}
                self.tokenizer.truncation_side = "right"
                pair = self.tokenizer(first, second, return_token_type_ids=True, **options)
        except Exception as error:  # as in token_ids
            reason = f"the tokenizer cannot encode the pair ({summarize_error(error)}); change the texts"
            raise RowError("source", reason) from error
        ids = self._check_ids(self._without_repeated_prefix(pair["input_ids"], pair["input_ids"]), "source", "encoder")
        if not ids or len(ids) > self.max_source_length:
            raise LengthError("source", f"truncation leaves none of the pair; {self.source_remedy}")
        return ids, self._without_repeated_prefix(pair["input_ids"], pair["token_type_ids"]), length

    def _tokenize_both_orders(self, first: str, second: str) -> TokenizedRow:
        """Tokenize a pair of texts in both orders, as two texts of a row.

        Raises:
            RowError: as from ``_tokenize_source_pair``.
        """
        pairs = [self._tokenize_source_pair(first, second), self._tokenize_source_pair(second, first)]
        return {
            "source": [],
            "candidates": [ids for ids, _, _ in pairs],
            "answer": 0,
            "length": sum(len(ids) for ids, _, _ in pairs),
            "source_tokens": max(length for _, _, length in pairs),
            "target_tokens": 0,
            "segments": [types for _, types, _ in pairs],
            "averaged": True,
        }

    def tokenize_windows(self, text: str, question: str | None, *, stride: int) -> list[TextWindow]:
        options: dict[str, Any] = {"max_tokens": self.max_source_length, "stride": stride, "remedy": self.source_remedy}
        windows = tokenize_windows(self.tokenizer, text, question, **options)
        for window in windows:
            self._check_ids(window.ids, "source", "encoder")
        if question is None:  # every token of the text may be tagged
            return windows
        without = self._without_repeated_prefix
        return [
            replace(
                window,
                ids=without(window.ids, window.ids),
                segments=without(window.ids, window.segments),
                offsets=(*without(window.ids, window.offsets),),
            )
            for window in windows
        ]

    def tokenize_pairs(self, examples: Sequence[Example]) -> list[TokenizedRow]:
        *_, lengths = self._tokenize_sources(examples)
        sources = [example.source for example in examples for _ in example.candidates]
        choices = [choice for example in examples for choice in example.candidates]
        # At once, since each call of a tokenizer takes longer than a pair.
        pairs: Any = self.tokenizer(sources, choices, return_token_type_ids=True) if sources else {}
        ends = [*accumulate(len(example.candidates) for example in examples)]
        return [
            self._build_choices(
                example, length, {name: pairs[name][end - len(example.candidates) : end] for name in PAIR}
            )
            for example, length, end in zip(examples, lengths, ends, strict=True)
        ]

    def _build_choices(self, example: Example, source_tokens: int, pairs: Mapping[str, Any]) -> TokenizedRow:
        """Build the row of an example from its pairs; the source is truncated if a pair is too long.

        Args:
            example: the example.
            source_tokens: length of the source in tokens before truncation.
            pairs: ids and segments of each choice as a pair with the source.

        Raises:
            RowError: a choice leaves no room for the source, or two choices have the same ids.
        """
        choices, source = list(example.candidates), example.source
        longest = max(map(len, pairs["input_ids"]))
        if longest > self.max_source_length and example.truncatable_span:
            room = self.max_source_length - (longest - source_tokens)
            source = truncate_context(example, room, self.tokenizer, self.source_remedy)
        if longest > self.max_source_length:
            pairs = truncate_pairs(source, choices, self.max_source_length, self.tokenizer, self.source_remedy)
        texts, segments = [], []
        for ids, types in zip(*map(pairs.__getitem__, PAIR), strict=True):
            texts.append(self._check_ids(self._without_repeated_prefix(ids, ids), "source", "encoder"))
            segments.append(self._without_repeated_prefix(ids, types))
        check_candidates_differ(choices, texts)
        return {
            "source": [],
            "candidates": texts,
            "answer": choices.index(example.target),
            "length": sum(map(len, texts)),
            "source_tokens": longest,
            "target_tokens": 0,
            "segments": segments,
        }

    def _without_repeated_prefix(self, ids: Sequence[int], values: Sequence[T]) -> list[T]:
        """Leave out what belongs to special tokens with which a text repeats the template's prefix.

        Args:
            ids: the ids of a text or pair, with the template's special tokens.
            values: a value for each of them.
        """
        start = len(self.special_tokens.prefix)
        repeated = self.special_tokens.count_repeated(ids[start:]) if start else 0
        return [*values[:start], *values[start + repeated :]]

    def collate(self, rows: Sequence[TokenizedRow]) -> dict[str, Tensor]:
        texts = [text for row in rows for text in (row["candidates"] or [row["source"]])]
        segments = [segment for row in rows for segment in row.get("segments") or [[0] * len(row["source"])]]
        has_segments = any(row.get("segments") for row in rows)
        options: dict[str, Any] = {"multiple": self.pad_to_multiple_of, "max_length": self.max_encoder_length}
        return {
            "input_ids": pad_sequences(texts, self.pad_id, **options),
            "attention_mask": attention_mask(texts, **options),
            **({"token_type_ids": pad_sequences(segments, 0, **options)} if has_segments else {}),
            "labels": torch.tensor([row["answer"] for row in rows]),
            CHOICES: torch.tensor([len(row["candidates"]) for row in rows]),
            **({AVERAGED: torch.ones(len(rows))} if any(row.get("averaged") for row in rows) else {}),
            "input_tokens": torch.tensor(sum(map(len, texts))),
        }

    def collate_candidates(self, rows: Sequence[TokenizedRow]) -> dict[str, Tensor]:
        return self.collate(rows)

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self._outputs_by_row(self._outputs(model, batch), batch), batch["labels"]

    def _outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the outputs of the head, of shape (texts, outputs) or (texts, length, outputs)."""
        inputs = {"input_ids": batch["input_ids"]}
        # FNet takes no attention mask in transformers 4.
        if accepts_argument(model, "attention_mask") or accepts_argument(model, "kwargs"):
            inputs["attention_mask"] = batch["attention_mask"]
        if "token_type_ids" in batch and self.uses_token_type_ids(model):
            inputs["token_type_ids"] = batch["token_type_ids"]
        output = model(**inputs)
        spans = getattr(output, "start_logits", None) is not None
        outputs: Tensor = torch.stack([output.start_logits, output.end_logits], -1) if spans else output.logits
        # Prompt methods prepend positions to those of the text.
        return outputs[:, -batch["input_ids"].shape[1] :] if outputs.ndim == 3 else outputs

    def _outputs_by_row(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Arrange outputs by row: the scores of a row's pairs become one line of shape (choices,), padded with -inf.

        Those of the two orders of a pair become their mean, of shape (outputs,).
        """
        choices = choices_per_row(batch)
        if not any(choices) or outputs.ndim == 3:
            return outputs
        if AVERAGED in batch:
            parts = torch.split(at_least_float32(outputs), [max(1, number) for number in choices])
            return torch.stack([part.mean(0) for part in parts])
        scores: list[Tensor] = list(torch.split(at_least_float32(outputs)[:, 0], choices))
        return nn.utils.rnn.pad_sequence(scores, batch_first=True, padding_value=-torch.inf)

    def uses_token_type_ids(self, model: nn.Module) -> bool:
        """Whether the model has embeddings for two segments: RoBERTa has one, DistilBERT none."""
        return accepts_argument(model, "token_type_ids") and getattr(self.config, "type_vocab_size", 2) > 1

    def loglikelihoods(self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device) -> CandidateScores:
        batch = {k: v.to(device) for k, v in self.collate(rows).items()}
        logits = self.outputs_without_padding_effects(model, batch)
        logprobs = at_least_float32(logits).log_softmax(-1).tolist()
        counts = [logits.shape[1] if row.get("averaged") else len(row["candidates"]) or logits.shape[1] for row in rows]
        return CandidateScores(
            [values[:n] for values, n in zip(logprobs, counts, strict=True)], [[1] * n for n in counts]
        )

    def outputs_without_padding_effects(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        outputs, device = self._outputs(model, batch), batch["input_ids"].device
        lengths = batch["attention_mask"].sum(1).tolist()

        def outputs_without_padding(indices: list[int]) -> Tensor:
            unpadded = {key: batch[key][indices, : lengths[indices[0]]] for key in PER_TEXT if key in batch}
            return self._outputs(model, unpadded)

        def differs() -> bool | None:
            shortest = min(range(len(lengths)), key=lengths.__getitem__)
            if lengths[shortest] == batch["input_ids"].shape[1]:
                return None
            padded = unpad(outputs, shortest)
            difference = (outputs_without_padding([shortest])[0] - padded).abs().max().item()
            return difference > 10 * tolerance(model, device) * max(1.0, padded.abs().max().item())

        def unpad(values: Tensor, indices: int | list[int]) -> Tensor:
            length = lengths[indices if isinstance(indices, int) else indices[0]]
            return values[indices, :length] if values.ndim == 3 else values[indices]

        if not ignores_padding(model, differs):
            for indices in group_equal_lengths([range(length) for length in lengths]):
                if outputs.ndim == 3:
                    outputs[indices, : lengths[indices[0]]] = outputs_without_padding(indices)
                else:
                    outputs[indices] = outputs_without_padding(indices)
        return self._outputs_by_row(outputs, batch)
