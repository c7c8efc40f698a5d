"""The family of decoder-only models, such as GPT-2 and Llama."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from peftkit.components import Example
from peftkit.components.types import IGNORE_INDEX, CandidateScores, GeneratedText, RowSampling, TokenizedRow
from peftkit.errors import RowError
from peftkit.models.batches.padding import TARGET_POSITIONS, attention_mask, pad_sequences, target_positions
from peftkit.models.candidate_scoring import (
    CachedScorer,
    CandidateLogprobs,
    ScoringStrategy,
    batch_by_length,
)
from peftkit.models.chat.chat_template import ConversationTemplate
from peftkit.models.decoding.batch_limits import limits
from peftkit.models.decoding.candidate_tree import PackedTexts, candidate_tree
from peftkit.models.decoding.decoder_generation import PromptContinuation
from peftkit.models.decoding.prefix_cache import (
    CacheNotShareable,
    SharedPrompt,
    accepts_argument,
    base_for_cache,
    cache_layers,
    cache_row_bytes,
    check_packing,
    compute_dtype,
    keeps_all_positions,
    run_on,
    slice_cache,
)
from peftkit.models.heads.logits_to_keep import TargetLogits, target_logits
from peftkit.models.heads.token_losses import sum_logprobs
from peftkit.models.lengths.truncation import truncate_start
from peftkit.models.prompt_tokenization import Prompt, append_eos, ids_after_prompt
from peftkit.models.special_tokens import describe_problems, embedding_size, read_generated, token_ids


class CausalLM(CachedScorer):
    """Concatenates source and target; only target tokens are trained and scored."""

    auto_class = "AutoModelForCausalLM"

    @property
    def _max_source_tokens(self) -> int:
        return self.max_source_length + len(self.special_tokens.suffix)  # which a prompt does not have

    def special_token_problems(self) -> list[str]:
        return describe_problems(
            self.tokenizer, self.config, "decoder", lambda: self.special_tokens.prefix, lambda: [self.eos_id]
        )

    def _add_template(self, ids: list[int]) -> list[int]:
        """Add only the prefix, since the target follows; an empty prompt becomes the bos or eos token."""
        prompt = [*self.special_tokens.prefix, *self.special_tokens.strip_prefix(ids)]
        bos_id = self.tokenizer.bos_token_id
        return prompt or [self.eos_id if bos_id is None else bos_id]

    def _truncate_source(self, ids: list[int]) -> list[int]:
        """Truncate a prompt at its start, and check its ids."""
        ids = truncate_start(ids, self.max_source_length, self.special_tokens, self.source_remedy)
        return self._check_ids(ids, "source", "decoder")

    def tokenize_completions(
        self, examples: Sequence[Example], *, ranked: bool, generated: bool = False, join: str = " "
    ) -> list[TokenizedRow]:
        texts, source_ids, prompts, lengths = self._tokenize_sources(examples)
        targets_and_answers = [self._candidates_and_target(e, ranked=ranked) for e in examples]
        # The whole text is tokenized and split, since most vocabularies have words with their leading space.
        whole_ids = iter(
            token_ids(
                self.tokenizer,
                [
                    f"{text}{join}{t}"
                    for text, (targets, _) in zip(texts, targets_and_answers, strict=True)
                    for t in targets
                ],
                special=False,
            )
        )
        rows: list[TokenizedRow] = []
        for text, ids, prompt, length, (targets, answer) in zip(
            texts, source_ids, prompts, lengths, targets_and_answers, strict=True
        ):
            read = Prompt(text, ids, prompt, join)
            candidates = [self._target_ids(read, target, next(whole_ids), generated=generated) for target in targets]
            rows.append(self._build_row(prompt, length, targets, candidates, answer))
        return rows

    def tokenize_documents(self, examples: Sequence[Example]) -> list[tuple[list[int], list[int]]]:
        start, documents = self._add_template([]), []
        for ids in token_ids(self.tokenizer, [example.source for example in examples], special=False):
            text = self.special_tokens.strip_prefix(ids)
            if not text:
                raise RowError("source", "it has no token in the model's vocabulary")
            documents.append((start, self._check_ids(text, "source", "decoder")))
        return documents

    def load_chat_template(self, template: str, variables: Mapping[str, Any]) -> ConversationTemplate:
        limits = (self.max_source_length, self.max_target_length)
        size = embedding_size(self.config, "decoder")
        return ConversationTemplate(self.tokenizer, template, variables, limits, size)

    def _target_ids(self, prompt: Prompt, target: str, whole_ids: list[int], *, generated: bool) -> list[int]:
        """Return the ids of a target that continues a prompt, end of text included.

        Args:
            prompt: the prompt.
            target: the text of the target.
            whole_ids: token ids of source and target as one text, without special tokens.
            generated: whether the model must be able to generate the target.

        Raises:
            RowError: no ids after the prompt decode to the target.
        """
        if not target:
            return [self.eos_id]
        ids = ids_after_prompt(self.tokenizer, self.special_tokens, prompt, target, whole_ids)
        return self._check_target(append_eos(ids, self.eos_id, target, self.tokenizer), target, generated=generated)

    def collate(self, rows: Sequence[TokenizedRow]) -> dict[str, Tensor]:
        targets = [row["candidates"][row["answer"]] for row in rows]
        batch = self._collate_texts([row["source"] for row in rows], targets)
        spans = [
            row.get("trained_spans") or [[len(row["source"]), len(row["source"]) + len(target)]]
            for row, target in zip(rows, targets, strict=True)
        ]
        positions = [[i for start, end in each for i in range(start, end)] for each in spans]
        if any("trained_spans" in row for row in rows):
            batch["labels"] = torch.full_like(batch["labels"], IGNORE_INDEX)
            for number, trained in enumerate(positions):
                batch["labels"][number, trained] = batch["input_ids"][number, trained]
        return {
            **batch,
            TARGET_POSITIONS: target_positions([[i - 1 for i in each] for each in positions]),
            "input_tokens": batch["attention_mask"].sum() - sum(map(len, positions)),
        }

    def _collate_texts(self, sources: Sequence[list[int]], targets: Sequence[list[int]]) -> dict[str, Tensor]:
        """Pad the concatenations of sources and targets; the labels of source tokens are ignored."""
        texts = [s + t for s, t in zip(sources, targets, strict=True)]
        labels = [[IGNORE_INDEX] * len(s) + t for s, t in zip(sources, targets, strict=True)]
        options: dict[str, Any] = {"multiple": self.pad_to_multiple_of, "max_length": self.max_decoder_length}
        return {
            "input_ids": pad_sequences(texts, self.pad_id, **options),
            "attention_mask": attention_mask(texts, **options),
            "labels": pad_sequences(labels, IGNORE_INDEX, **options),
        }

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        labels = batch["labels"]
        # Prompt methods prepend positions to those of the text.
        logits = output.logits[:, -labels.shape[1] :]
        return logits[:, :-1], labels[:, 1:]

    def _target_logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> TargetLogits:
        positions = batch.get(TARGET_POSITIONS)
        if positions is None or self.all_logits:
            return super()._target_logits(model, batch)
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        next_labels = pad(batch["labels"][:, 1:], (0, 1), value=IGNORE_INDEX)
        computed = target_logits(model, lambda: model(**inputs, use_cache=False).logits, positions, next_labels)
        return computed or super()._target_logits(model, batch)

    def strategies(self) -> Sequence[ScoringStrategy]:
        one_pass = partial(self.score_in_one_pass, prompt=SharedPrompt())
        return one_pass, self.score_with_packed_suffixes, self.score_with_cache

    def can_share(self, rows: Sequence[TokenizedRow]) -> bool:
        return True  # single candidates need no logits of their sources

    def score_without_sharing(
        self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device
    ) -> CandidateScores:
        scores = CandidateScores([[] for _ in rows], [[] for _ in rows])
        for n, indices in enumerate(self._rows_by_candidate(rows)):
            sources = [rows[i]["source"] for i in indices]
            batch = self._collate_texts(sources, [rows[i]["candidates"][n] for i in indices])
            logits, labels = self.logits(model, {k: v.to(device) for k, v in batch.items()})
            for i, value, count in zip(indices, *sum_logprobs(logits, labels), strict=True):
                scores.loglikelihoods[i].append(value)
                scores.num_tokens[i].append(count)
        return scores

    def score_in_one_pass(
        self,
        model: nn.Module,
        rows: Sequence[TokenizedRow],
        device: torch.device,
        prompt: SharedPrompt | None = None,
    ) -> CandidateScores:
        """Score in one pass: each source is followed by the tree of its candidates, which attend to their prefixes.

        Args:
            model: the model, in evaluation mode.
            rows: one batch of tokenized rows.
            device: the model's device.
            prompt: what the prompts of the evaluation share; None to share nothing.

        Raises:
            CacheNotShareable: the model does not support this.
        """
        sources = check_packing(model, rows)
        base = base_for_cache(model)
        shared = prompt if prompt is not None and prompt.update(model, sources, device) else None
        if shared is None and base is not model:  # the prompts of the method have to be in a cache
            return self.score_with_packed_suffixes(model, rows, device)
        cached, num_shared = (shared.positions, len(shared.ids)) if shared else (0, 0)
        trees = [candidate_tree(row["candidates"]) for row in rows]
        packed = PackedTexts.build([s[num_shared:] for s in sources], [cached] * len(rows), trees)
        length = cached + packed.length
        if not keeps_all_positions(self.config, length):
            raise CacheNotShareable("its layers attend to a window")
        size = limits(device).bytes // (4 * packed.length * length)
        if not size:  # the mask of long sources would be large
            return self.score_with_packed_suffixes(model, rows, device)
        dtype = shared.dtype if shared else compute_dtype(model, device)
        logprobs = CandidateLogprobs(rows, device, common_prefixes=False)
        roots = [len(source) - num_shared - 1 for source in sources]
        for first in range(0, len(rows), size):
            indices = list(range(len(rows)))[first : first + size]
            mask = torch.ones(len(indices), cached, dtype=torch.long, device=device)
            inputs = packed.select(indices).inputs(mask, dtype, self.pad_id)
            logprobs.read(
                model,
                run_on(base, inputs, partial(shared.expand, len(indices)) if shared else None),
                logprobs.of_trees(indices, trees, roots),
                inputs["input_ids"].shape,
            )
        return logprobs.scores()

    def score_with_packed_suffixes(
        self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device
    ) -> CandidateScores:
        """Score in two passes: sources, then the tree of each row's candidates as one sequence.

        Candidates attend to the cache of the first pass and to their prefixes. No cache is copied, but the model has to
        accept position ids and a 4D attention mask.

        Args:
            model: the model, in evaluation mode.
            rows: one batch of tokenized rows.
            device: the model's device.

        Raises:
            CacheNotShareable: the model or its cache does not support this.
        """
        check_packing(model, rows)
        logprobs = CandidateLogprobs(rows, device, common_prefixes=False)
        past, mask, next_positions = self._read_prefixes(model, rows, logprobs)
        trees = [candidate_tree(row["candidates"]) for row in rows]
        packed = PackedTexts.build([[]] * len(rows), next_positions, trees)
        size = max(1, limits(device).bytes // max(1, 4 * packed.length * (mask.shape[1] + packed.length)))
        with_tree = [i for i, tree in enumerate(trees) if tree.tokens]
        for first in range(0, len(with_tree), size):
            indices = with_tree[first : first + size]
            adjacent = indices[-1] - indices[0] + 1 == len(indices)
            chosen = slice(indices[0], indices[-1] + 1) if adjacent else torch.tensor(indices, device=device)
            inputs = packed.select(indices).inputs(mask[chosen], cache_layers(past)[0].keys.dtype, self.pad_id)
            predicted = logprobs.of_trees(indices, trees, [-1] * len(rows))
            run = run_on(base_for_cache(model), inputs, partial(slice_cache, past, chosen))
            logprobs.read(model, run, predicted, inputs["input_ids"].shape)
        return logprobs.scores()

    def score_with_cache(self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device) -> CandidateScores:
        """Score like ``score_with_packed_suffixes``, with each suffix as a row of the second pass, on a copied cache.

        Args:
            model: the model, in evaluation mode.
            rows: one batch of tokenized rows.
            device: the model's device.

        Raises:
            CacheNotShareable: the model's cache does not support this.
        """
        logprobs = CandidateLogprobs(rows, device)
        past, mask, next_positions = self._read_prefixes(model, rows, logprobs)
        for batch in batch_by_length(logprobs.with_suffix, len(rows), cache_row_bytes(past), limits(device)):
            indices = torch.tensor([c.row for c in batch], device=device)
            ids = pad_sequences([c.suffix for c in batch], self.pad_id).to(device)
            first = torch.tensor([next_positions[c.row] for c in batch], device=device)[:, None]
            # Padding repeats the last position, since there may be no position after it.
            last = torch.tensor([len(c.suffix) - 1 for c in batch], device=device)[:, None]
            positions = first + torch.arange(ids.shape[1], device=device).minimum(last)
            inputs = {
                "input_ids": ids,
                "attention_mask": torch.cat([mask[indices], torch.ones_like(ids)], 1),
                **({"position_ids": positions} if accepts_argument(model, "position_ids") else {}),
            }
            run = run_on(base_for_cache(model), inputs, partial(slice_cache, past, indices))
            logprobs.read(model, run, logprobs.of_suffixes(batch), ids.shape)
        return logprobs.scores()

    def _read_prefixes(
        self, model: nn.Module, rows: Sequence[TokenizedRow], logprobs: CandidateLogprobs
    ) -> tuple[Any, Tensor, list[int]]:
        """Run the model on each row's source and common prefix, and add the log-likelihoods to ``logprobs``.

        Returns:
            The cache, its attention mask of shape (rows, cached positions), and the next position of each row.
        """
        if not all(row["source"] for row in rows):
            raise CacheNotShareable("the source of a row is empty")
        texts = [row["source"] + row["candidates"][0][:n] for row, n in zip(rows, logprobs.prefix_lengths, strict=True)]
        max_length = self.max_decoder_length
        ids = pad_sequences(texts, self.pad_id, max_length=max_length).to(logprobs.device)
        mask = attention_mask(texts, max_length=max_length).to(logprobs.device)
        predicted = [each for i, row in enumerate(rows) for each in logprobs.of_prefix(i, len(row["source"]) - 1)]
        run = partial(model, input_ids=ids, attention_mask=mask, use_cache=True)
        past = logprobs.read(model, run, predicted, ids.shape).past_key_values
        longest = max(len(row["source"]) + len(ids) for row in rows for ids in row["candidates"])
        num_virtual = past.get_seq_length() - ids.shape[1]
        cache_layers(past, num_virtual + longest)
        mask = pad(mask, (num_virtual, 0), value=1)
        return past, mask, [num_virtual + len(text) for text in texts]

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
        # The positions after max_source_length are needed for generated tokens.
        max_length = None if self.max_decoder_length is None else self.max_source_length
        ends = (*stop_ids,) or (self.eos_id,)
        continuation = PromptContinuation(model, device, self.pad_id, ends, max_length, sampling)
        generated = continuation.generate([row["source"] for row in rows], options)
        return [read_generated(self.tokenizer, ids, ends) for ids in generated]
