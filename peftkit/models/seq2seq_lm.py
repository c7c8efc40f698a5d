"""The family of encoder-decoder models, such as T5 and BART."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from peftkit.components import Example
from peftkit.components.types import IGNORE_INDEX, CandidateScores, GeneratedText, RowSampling, TokenizedRow
from peftkit.models.batches.padding import TARGET_POSITIONS, attention_mask, pad_sequences, target_positions
from peftkit.models.candidate_scoring import (
    CachedScorer,
    CandidateLogprobs,
    ScoringStrategy,
    batch_by_length,
)
from peftkit.models.decoding.batch_limits import limits
from peftkit.models.decoding.candidate_tree import PackedTexts, candidate_chains
from peftkit.models.decoding.greedy_search import ManyEnded, can_divide, search
from peftkit.models.decoding.kv_cache_check import generate
from peftkit.models.decoding.prefix_cache import base_for_cache, cache_row_bytes, compute_dtype, run_on, slice_cache
from peftkit.models.decoding.sampling import make_processors
from peftkit.models.heads.logits_to_keep import TargetLogits, target_logits
from peftkit.models.heads.token_losses import sum_logprobs
from peftkit.models.prompt_tokenization import append_eos
from peftkit.models.special_tokens import (
    SpecialTokens,
    describe_problems,
    detect_special_tokens,
    find_decoder_start_id,
    read_generated,
    token_ids,
)

MODEL_INPUTS = ("input_ids", "attention_mask", "decoder_input_ids")
"""Tensors of a batch that the model gets."""
MAX_PACKED = 512
"""Longest sequence of packed candidates; in longer ones, attention computes too many pairs that are masked."""


class Seq2SeqLM(CachedScorer):
    """Feeds the source to the encoder; the decoder predicts the target."""

    auto_class = "AutoModelForSeq2SeqLM"

    @cached_property
    def decoder_start_id(self) -> int:
        """The id that the decoder starts with.

        Raises:
            InputError: the config has none.
        """
        return find_decoder_start_id(self.config)

    @cached_property
    def target_special_tokens(self) -> SpecialTokens:
        """The special tokens that the tokenizer adds to a target."""
        return detect_special_tokens(self.tokenizer, target=True)

    def special_token_problems(self) -> list[str]:
        id_getters = (lambda: [self.decoder_start_id], lambda: [self.eos_id], lambda: self.target_special_tokens.prefix)
        return [
            *super().special_token_problems(),
            *describe_problems(self.tokenizer, self.config, "decoder", *id_getters),
        ]

    def tokenize_completions(
        self, examples: Sequence[Example], *, ranked: bool, generated: bool = False, join: str = " "
    ) -> list[TokenizedRow]:
        _, _, sources, lengths = self._tokenize_sources(examples)
        rows: list[TokenizedRow] = []
        targets_and_answers = [self._candidates_and_target(e, ranked=ranked) for e in examples]
        all_targets = [target for targets, _ in targets_and_answers for target in targets]
        encoded = iter(token_ids(self.tokenizer, all_targets, target=True, special=False))
        for source, length, (targets, answer) in zip(sources, lengths, targets_and_answers, strict=True):
            candidates = [self._target_ids(next(encoded), target, generated=generated) for target in targets]
            rows.append(self._build_row(source, length, targets, candidates, answer))
        return rows

    def _target_ids(self, ids: list[int], text: str, *, generated: bool) -> list[int]:
        """Return the ids that the decoder predicts for a target: the template's prefix, the text, the end of text.

        Args:
            ids: token ids of the target.
            text: the text of the target.
            generated: whether the model must be able to generate the text.

        Raises:
            RowError: a model cannot generate the text.
        """
        ids = append_eos(self.target_special_tokens.strip_prefix(ids), self.eos_id, text, self.tokenizer)
        return [*self.target_special_tokens.prefix, *self._check_target(ids, text, generated=generated)]

    def collate(self, rows: Sequence[TokenizedRow]) -> dict[str, Tensor]:
        sources = [row["source"] for row in rows]
        targets = [row["candidates"][row["answer"]] for row in rows]
        options: dict[str, Any] = {"multiple": self.pad_to_multiple_of, "max_length": self.max_encoder_length}
        return {
            "input_ids": pad_sequences(sources, self.pad_id, **options),
            "attention_mask": attention_mask(sources, **options),
            **self._collate_targets(targets, self.pad_to_multiple_of),
            TARGET_POSITIONS: target_positions([range(len(each)) for each in targets]),
            "input_tokens": torch.tensor(sum(map(len, sources))),
        }

    def _collate_targets(self, targets: Sequence[list[int]], multiple: int = 1) -> dict[str, Tensor]:
        """Build the padded decoder inputs and labels of targets."""
        # Shifted here, since not all wrappers leave that to the model.
        options: dict[str, Any] = {"multiple": multiple, "max_length": self.max_decoder_length}
        return {
            "decoder_input_ids": pad_sequences(
                [[self.decoder_start_id, *t[:-1]] for t in targets], self.pad_id, **options
            ),
            "labels": pad_sequences(targets, IGNORE_INDEX, **options),
        }

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return model(**{k: batch[k] for k in MODEL_INPUTS}, use_cache=False).logits, batch["labels"]

    def _target_logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> TargetLogits:
        positions = batch.get(TARGET_POSITIONS)
        if positions is None or self.all_logits:
            return super()._target_logits(model, batch)
        computed = target_logits(model, lambda: self.logits(model, batch)[0], positions, batch["labels"])
        return computed or super()._target_logits(model, batch)

    def strategies(self) -> Sequence[ScoringStrategy]:
        return self.score_in_one_pass, self.score_with_cache, self.score_with_shared_encoder

    def score_without_sharing(
        self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device
    ) -> CandidateScores:
        return self._score_each(model, rows, device, encode_once=False)

    def score_with_shared_encoder(
        self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device
    ) -> CandidateScores:
        """Score each candidate in a separate pass; only the encoder's output is shared.

        Args:
            model: the model, in evaluation mode.
            rows: one batch of tokenized rows.
            device: the model's device.
        """
        return self._score_each(model, rows, device, encode_once=True)

    def _score_each(
        self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device, *, encode_once: bool
    ) -> CandidateScores:
        """Score the first candidates of all rows in one pass, then the second ones, and so on."""
        ids, mask = self._collate_sources(rows, device)
        scores = CandidateScores([[] for _ in rows], [[] for _ in rows])
        hidden: Tensor | None = None
        for n, indices in enumerate(self._rows_by_candidate(rows)):
            # Candidates often have two or three tokens: padded to eight, most of the computation would be wasted.
            targets = self._collate_targets([rows[i]["candidates"][n] for i in indices])
            inputs: dict[str, Any] = {
                "input_ids": ids[
                    indices
                ],  # unused beside encoder_outputs, but peft's prompts take the batch size from it
                "attention_mask": mask[indices],
                "decoder_input_ids": targets["decoder_input_ids"].to(device),
            }
            if hidden is not None:
                inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=hidden[indices])  # type: ignore[arg-type]
            output = model(**inputs, use_cache=False)
            if encode_once and hidden is None:  # every row has a first candidate, so this pass encodes all of them
                hidden = output.encoder_last_hidden_state
            sums_and_counts = sum_logprobs(output.logits, targets["labels"].to(device))
            for i, value, count in zip(indices, *sums_and_counts, strict=True):
                scores.loglikelihoods[i].append(value)
                scores.num_tokens[i].append(count)
        return scores

    def score_in_one_pass(
        self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device
    ) -> CandidateScores:
        """Score in one pass: the decoder reads a row's candidates in one sequence, and each attends to itself only.

        Relative positions within a candidate are the same wherever it is. The keys and values of cross-attention are
        computed once per row.

        Args:
            model: the model, in evaluation mode.
            rows: one batch of tokenized rows.
            device: the model's device.
        """
        chains = [candidate_chains(row["candidates"], self.decoder_start_id) for row in rows]
        packed, logprobs = PackedTexts.build([[]] * len(rows), [0] * len(rows), chains), CandidateLogprobs(rows, device)
        in_common = sum(n * (len(row["candidates"]) - 1) for n, row in zip(logprobs.prefix_lengths, rows, strict=True))
        if (
            not hasattr(self.config, "relative_attention_num_buckets")
            or base_for_cache(model) is not model  # prompts may be in front of what the decoder reads
            or not logprobs.with_suffix
            or packed.length > MAX_PACKED
            or in_common > 0.25 * sum(map(len, packed.ids))
        ):
            return self.score_with_cache(model, rows, device)
        ids, mask = self._collate_sources(rows, device)
        packed_inputs = packed.inputs(
            torch.ones(len(rows), 0, device=device), compute_dtype(model, device), self.pad_id
        )
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "decoder_input_ids": packed_inputs["input_ids"],
            "decoder_attention_mask": packed_inputs["attention_mask"],
        }
        predicted = logprobs.of_trees(range(len(rows)), chains, [-1] * len(rows))
        logprobs.read(model, run_on(model, inputs, None), predicted, inputs["decoder_input_ids"].shape)
        return logprobs.scores()

    def score_with_cache(self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device) -> CandidateScores:
        """Score in two passes: sources with common prefixes, then the candidates' suffixes with copies of the cache.

        The cache includes the keys and values of cross-attention, so these are computed once per row.

        Args:
            model: the model, in evaluation mode.
            rows: one batch of tokenized rows.
            device: the model's device.

        Raises:
            CacheNotShareable: the model's cache does not support this.
        """
        ids, mask = self._collate_sources(rows, device)
        logprobs = CandidateLogprobs(rows, device)
        prefixes = [
            [self.decoder_start_id, *row["candidates"][0][:n]]
            for row, n in zip(rows, logprobs.prefix_lengths, strict=True)
        ]
        prefix_ids = pad_sequences(prefixes, self.pad_id).to(device)
        predicted = [each for i in range(len(rows)) for each in logprobs.of_prefix(i, 0)]
        inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": prefix_ids}
        # The adapters library returns tuples unless it gets a cache.
        run = run_on(model, inputs, lambda: EncoderDecoderCache(DynamicCache(), DynamicCache()))
        output = logprobs.read(model, run, predicted, prefix_ids.shape)
        past, hidden = output.past_key_values, output.encoder_last_hidden_state
        mask = pad(mask, (hidden.shape[1] - mask.shape[1], 0), value=1)  # prompt methods lengthen the source
        num_virtual = past.get_seq_length() - prefix_ids.shape[1]  # positions that the method prepends
        for batch in batch_by_length(
            logprobs.with_suffix, len(rows), cache_row_bytes(past), limits(device), same_prefix_length=True
        ):
            indices = torch.tensor([c.row for c in batch], device=device)
            inputs = {
                "encoder_outputs": BaseModelOutput(last_hidden_state=hidden.index_select(0, indices)),  # type: ignore[arg-type,dict-item]
                "attention_mask": mask[indices],
                "decoder_input_ids": pad_sequences([c.suffix for c in batch], self.pad_id).to(device),
            }
            cache = partial(slice_cache, past, indices, num_virtual + 1 + batch[0].prefix_length)
            run = run_on(base_for_cache(model), inputs, cache)
            logprobs.read(model, run, logprobs.of_suffixes(batch), inputs["decoder_input_ids"].shape)
        return logprobs.scores()

    def _collate_sources(self, rows: Sequence[TokenizedRow], device: torch.device) -> tuple[Tensor, Tensor]:
        """Build the padded encoder inputs and their attention mask, both of shape (rows, length)."""
        sources = [row["source"] for row in rows]
        ids = pad_sequences(sources, self.pad_id, max_length=self.max_encoder_length)
        mask = attention_mask(sources, max_length=self.max_encoder_length)
        return ids.to(device), mask.to(device)

    def generate(
        self,
        model: nn.Module,
        rows: Sequence[TokenizedRow],
        device: torch.device,
        *,
        stop_ids: Sequence[int] = (),
        sampling: RowSampling | None = None,
        **options: Any,
    ) -> list[GeneratedText]:
        ends = (*stop_ids,) or (self.eos_id,)
        continue_rows = partial(self._continue, model, rows, device, ends, sampling)
        if can_divide(model, options):
            generated = search(continue_rows, len(rows), ends, options)
        else:
            nothing: list[list[int]] = [[] for _ in rows]
            generated = continue_rows(range(len(rows)), nothing, options, early=False)
        return [read_generated(self.tokenizer, ids, ends) for ids in generated]

    def _continue(
        self,
        model: nn.Module,
        rows: Sequence[TokenizedRow],
        device: torch.device,
        stop_ids: Sequence[int],
        sampling: RowSampling | None,
        indices: Sequence[int],
        so_far: Sequence[list[int]],
        options: Mapping[str, Any],
        early: bool,
    ) -> list[list[int]]:
        """Generate ids that continue what has been generated for rows of a batch.

        Args:
            model: the model, in evaluation mode.
            rows: the batch.
            device: the model's device.
            stop_ids: the ids that end a text.
            sampling: how texts are sampled; None for the most likely tokens.
            indices: the indices of the rows to continue.
            so_far: what has been generated for them, of the same length.
            options: further arguments of ``model.generate``.
            early: whether to stop as soon as many of them have ended.
        """
        ids, mask = self._collate_sources([rows[i] for i in indices], device)
        start = len(so_far[0]) + 1
        if early:
            many_ended = ManyEnded(stop_ids, start, options["max_new_tokens"], ids.shape[1])
            options = {**options, "stopping_criteria": [many_ended]}
        if sampling is not None:
            options = {**options, "logits_processor": make_processors(sampling, indices, len(so_far[0]))}
        if start > 1:
            texts = torch.tensor([[self.decoder_start_id, *each] for each in so_far], device=device)
            options = {**options, "decoder_input_ids": texts}
        generated = generate(
            model,
            "decoder_input_ids",
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            decoder_start_token_id=self.decoder_start_id,
            pad_token_id=self.pad_id,
            eos_token_id=[*stop_ids],
            **options,
        )
        return generated[:, start:].tolist()  # type: ignore[no-any-return]
