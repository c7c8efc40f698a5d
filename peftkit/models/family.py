"""The base class of model families: tokenizing, collating, losses and scores for one architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, cast, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from peftkit.components import Example, Side
from peftkit.components.family_services import ChatTemplate, ScoreCandidates
from peftkit.components.types import IGNORE_INDEX, CandidateScores, GeneratedText, RowSampling, TextWindow, TokenizedRow
from peftkit.errors import RowError
from peftkit.models.batches.collated_batch import CHOICES
from peftkit.models.batches.padding import find_pad_id, pad_batch
from peftkit.models.batches.text_states import TextStates, no_model_file
from peftkit.models.heads.logits_to_keep import TargetLogits
from peftkit.models.heads.token_losses import sum_cross_entropy, target_loglikelihoods
from peftkit.models.lengths import LONGER_SOURCES, LONGER_TARGETS
from peftkit.models.lengths.length_limits import check_min_length
from peftkit.models.lengths.truncation import truncate_context, truncate_end, truncate_target
from peftkit.models.special_tokens import (
    SpecialTokens,
    check_candidates_differ,
    decode_generated,
    describe_ids_without_embedding,
    describe_problems,
    detect_special_tokens,
    embedding_size,
    find_eos_id,
    special_ids,
    token_ids,
)

Ids = list[list[int]]


@dataclass(frozen=True)
class ModelFamily(TextStates):
    """Turns examples into tensors, losses and scores for one architecture.

    Attributes:
        tokenizer: the model's tokenizer.
        config: the model's config.
        source_length: maximum number of source tokens; longer sources are truncated.
        target_length: maximum number of target tokens; longer targets are truncated.
        max_encoder_length: maximum padded length of encoder inputs in tokens; None if positions are unlimited.
        max_decoder_length: maximum padded length of decoder inputs in tokens; None if positions are unlimited.
        pad_to_multiple_of: the lengths of training batches are multiples of it.
        all_logits: whether training computes the logits of all positions, not only those of targets.
        source_remedy: what to do about sources that are too long.
        target_remedy: what to do about targets that are too long.
        read_model_file: reads a JSON file of the model, by its name; returns None if there is no such file.
    """

    tokenizer: PreTrainedTokenizerBase
    config: Any
    max_source_length: int
    max_target_length: int
    max_encoder_length: int | None = None
    max_decoder_length: int | None = None
    pad_to_multiple_of: int = 1
    all_logits: bool = False
    source_remedy: str = LONGER_SOURCES
    target_remedy: str = LONGER_TARGETS
    read_model_file: Callable[[str], Any] = no_model_file

    auto_class: ClassVar[str]
    """Name of the transformers class that loads the model."""
    can_generate: ClassVar[bool] = True
    """Whether models of this family can generate text."""

    @cached_property
    def special_tokens(self) -> SpecialTokens:
        """The special tokens that the tokenizer adds to a source."""
        return detect_special_tokens(self.tokenizer)

    @cached_property
    def eos_id(self) -> int:
        """The id that ends targets and stops generation."""
        return find_eos_id(self.tokenizer, self.config)

    @cached_property
    def pad_id(self) -> int:
        """The padding id: the config's if there is one, otherwise any id that has an embedding."""
        return find_pad_id(self.tokenizer, self.config)

    @cached_property
    def _embedding_sizes(self) -> Mapping[Side, int | None]:
        """The number of ids that each side has embeddings for; every row needs it, and configs take long to give it."""
        return {side: embedding_size(self.config, side) for side in get_args(Side)}

    @cached_property
    def _unk_id(self) -> int | None:
        return cast("int | None", self.tokenizer.unk_token_id)  # a slow property, which every candidate needs

    @cached_property
    def _not_generated(self) -> frozenset[int]:
        """Special tokens that are removed from generated texts, but for those that are treated apart."""
        return frozenset(special_ids(self.tokenizer)) - {self._unk_id, self.eos_id}

    def special_token_problems(self) -> list[str]:
        """Describe the special tokens that every row needs and that are missing or have no embedding."""
        ids = lambda: [*self.special_tokens.prefix, *self.special_tokens.suffix]  # noqa: E731
        return describe_problems(self.tokenizer, self.config, "encoder", ids)

    def _check_ids(self, ids: list[int], field: str, side: Side) -> list[int]:
        """Return the ids, or raise a RowError if one of them has no embedding, or they are too few for the model."""
        if field == "source":
            check_min_length(ids, self.config)
        if problem := describe_ids_without_embedding(ids, self._embedding_sizes[side], self.tokenizer):
            raise RowError(field, problem)
        return ids

    def tokenize_completions(
        self, examples: Sequence[Example], *, ranked: bool, generated: bool = False, join: str = " "
    ) -> list[TokenizedRow]:
        """Tokenize examples whose targets continue their sources; see ``FamilyServices``.

        Args:
            examples: the examples.
            ranked: whether to tokenize all candidates, or only the target.
            generated: whether targets must be texts that the model can generate.
            join: the text between source and target.
        """
        raise NotImplementedError

    def tokenize_sources(self, examples: Sequence[Example]) -> list[TokenizedRow]:
        """Tokenize the sources of examples as whole inputs; see ``FamilyServices``."""
        raise NotImplementedError

    def tokenize_documents(self, examples: Sequence[Example]) -> list[tuple[list[int], list[int]]]:
        """Tokenize texts that are predicted as a whole; see ``FamilyServices``."""
        raise NotImplementedError

    def load_chat_template(self, template: str, variables: Mapping[str, Any]) -> ChatTemplate:
        """Return how conversations are tokenized.

        Args:
            template: a Jinja template; that of the tokenizer if empty.
            variables: further variables of the template.
        """
        raise NotImplementedError

    def tokenize_windows(self, text: str, question: str | None, *, stride: int) -> list[TextWindow]:
        """Tokenize a text into overlapping windows if it is too long.

        Args:
            text: the text.
            question: what every window starts with; None for single texts.
            stride: number of tokens that windows have in common, at most half of the text's tokens of a window.
        """
        raise NotImplementedError

    def tokenize_pairs(self, examples: Sequence[Example]) -> list[TokenizedRow]:
        """Tokenize each candidate as a pair with its source; see ``FamilyServices``."""
        raise NotImplementedError

    def collate(self, rows: Sequence[TokenizedRow]) -> dict[str, Tensor]:
        """Build the padded tensors of a training batch; ``labels`` holds the targets, ``input_tokens`` a count."""
        raise NotImplementedError

    def collate_candidates(self, rows: Sequence[TokenizedRow]) -> dict[str, Tensor]:
        """Build the padded tensors of a training batch in which every candidate of a row is a text."""
        texts: list[TokenizedRow] = [
            {**row, "candidates": [candidate], "answer": 0} for row in rows for candidate in row["candidates"]
        ]
        return {**self.collate(texts), CHOICES: torch.tensor([len(row["candidates"]) for row in rows])}

    def pad_to(self, batch: Mapping[str, Tensor], lengths: Mapping[str, int]) -> dict[str, Tensor]:
        """Pad a batch further.

        Args:
            batch: a collated batch; its texts are tensors of shape (rows, length).
            lengths: the new length of each tensor, by its key; at least its current length.

        Returns:
            The batch with tensors of shape (rows, new length).
        """
        return pad_batch(batch, lengths, self.pad_id)

    def num_tokens(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Count the tokens that the model reads on both sides, without padding; a scalar."""
        predicted = (batch["labels"] != IGNORE_INDEX).sum() if "decoder_input_ids" in batch else 0
        return batch["attention_mask"].sum() + predicted

    def uses_token_type_ids(self, model: nn.Module) -> bool:
        """Whether the model distinguishes the two texts of a pair by token type ids."""
        return False

    def logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Run the model on a batch.

        Args:
            model: the model.
            batch: a collated batch; its texts are tensors of shape (rows, length).

        Returns:
            The logits, of shape (rows, length, vocabulary) or (rows, labels), and the aligned labels.
        """
        raise NotImplementedError

    def outputs_without_padding_effects(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Run an encoder on a batch so that no row's outputs depend on the padding.

        Args:
            model: the model, in evaluation mode.
            batch: a collated batch; its texts are tensors of shape (rows, length).

        Returns:
            The outputs of the head, of shape (rows, outputs) or (texts, length, outputs); see ``FamilyServices``.
        """
        raise NotImplementedError

    def computes_all_logits(self, model: nn.Module) -> bool:
        """Whether training computes logits that predict no target."""
        return False

    def loglikelihoods(self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device) -> CandidateScores:
        """Compute the log-likelihood of every candidate of every row.

        Args:
            model: the model, in evaluation mode.
            rows: one batch of tokenized rows.
            device: the model's device.
        """
        raise NotImplementedError

    def candidate_scorer(self, model: nn.Module) -> ScoreCandidates:
        """Return a function that scores the batches of one evaluation; it may choose its strategy on the first."""
        return partial(self.loglikelihoods, model)

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
        """Generate a text for the source of each row.

        Args:
            model: the model, in evaluation mode.
            rows: one batch of tokenized rows.
            device: the model's device.
            stop_ids: the ids that end a text; the end of text if empty.
            sampling: how texts are sampled; None for the most likely tokens.
            options: further arguments of ``model.generate``.
        """
        raise NotImplementedError

    def teacher_forced_ids(
        self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device
    ) -> list[list[int]]:
        """Predict each target token given the true previous ones; this leaks the target.

        Args:
            model: the model, in evaluation mode.
            rows: one batch of tokenized rows.
            device: the model's device.

        Returns:
            For each row, the most likely id at each position of its target.
        """
        logits, labels = self.logits(model, {k: v.to(device) for k, v in self.collate(rows).items()})
        pairs = zip(logits.argmax(-1), labels != IGNORE_INDEX, strict=True)
        return [predicted[is_target].tolist() for predicted, is_target in pairs]

    def cross_entropy(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Compute the summed cross-entropy of a batch's labels.

        Args:
            model: the model.
            batch: a collated batch; its texts are tensors of shape (rows, length).

        Returns:
            A scalar, in nats.
        """
        computed = self._target_logits(model, batch)
        return sum_cross_entropy(computed.logits, computed.labels)

    def target_loglikelihoods(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the log-likelihood of the labels of each text, with gradients.

        Args:
            model: the model.
            batch: a collated batch; its texts are tensors of shape (texts, length).

        Returns:
            The sum over the labels of each text in nats, and their number, both of shape (texts,).
        """
        computed = self._target_logits(model, batch)
        return target_loglikelihoods(computed.logits, computed.labels, computed.texts, len(batch["labels"]))

    def _target_logits(self, model: nn.Module, batch: Mapping[str, Tensor]) -> TargetLogits:
        """Return logits and labels as ``logits`` does; those of positions without a target may be left out."""
        return TargetLogits(*self.logits(model, batch))

    def _tokenize_sources(self, examples: Sequence[Example]) -> tuple[list[str], Ids, Ids, list[int]]:
        """Tokenize sources, truncating their contexts where necessary.

        Returns:
            Their texts, their ids without and with special tokens, and the number of ids each had before truncation.
        """
        texts = [e.source for e in examples]
        ids = [*map(self._add_template, bare_ids := token_ids(self.tokenizer, texts, special=False))]
        lengths = [len(each) for each in ids]
        for i, example in enumerate(examples):
            if lengths[i] > self._max_source_tokens and example.truncatable_span:
                texts[i] = truncate_context(example, self._max_source_tokens, self.tokenizer, self.source_remedy)
                (bare_ids[i],) = token_ids(self.tokenizer, [texts[i]], special=False)
                ids[i] = self._add_template(bare_ids[i])
        return texts, bare_ids, ids, lengths

    @property
    def _max_source_tokens(self) -> int:
        """Maximum number of tokens of a source, including special tokens."""
        return self.max_source_length

    def _add_template(self, ids: list[int]) -> list[int]:
        """Add the special tokens of the template to the ids of a source."""
        return self.special_tokens.wrap(ids)

    def _truncate_source(self, ids: list[int]) -> list[int]:
        """Truncate a source at its end, and check its ids.

        Raises:
            RowError: the source has no tokens, the template leaves no room for any, or one has no embedding.
        """
        if not ids:
            raise RowError("source", "it has no token in the model's vocabulary")
        ids = truncate_end(ids, self.max_source_length, self.special_tokens, self.source_remedy)
        return self._check_ids(ids, "source", "encoder")

    def _check_target(self, ids: list[int], text: str, *, generated: bool) -> list[int]:
        """Return the ids of a target, end of text included, if all have an embedding.

        Raises:
            RowError: an id has no embedding, or decoding generated text would drop it.
        """
        self._check_ids(ids, "target", "decoder")
        if generated and (wrong := next((i for i in ids if i in self._not_generated), None)) is not None:
            token = self.tokenizer.convert_ids_to_tokens(wrong)
            remedy = "is removed from predictions; add it to the tokenizer as a token that is not special"
            raise RowError("target", f"{text!r} contains the special token {token!r}, which {remedy}")
        if generated and self.contains_unk(ids) and not decode_generated(self.tokenizer, ids, [self.eos_id]):
            raise RowError("target", f"{text!r} has no token in the model's vocabulary")
        return ids

    def contains_unk(self, ids: Sequence[int]) -> bool:
        """Whether a target contains the unknown token, which is removed from generated texts."""
        return self._unk_id in ids

    def _candidates_and_target(self, example: Example, *, ranked: bool) -> tuple[Sequence[str], int]:
        """Return the candidates to tokenize and the index of the target among them."""
        if ranked and example.candidates:
            return example.candidates, example.candidates.index(example.target)
        return (example.target,), 0

    def _build_row(
        self,
        source: list[int],
        source_tokens: int,
        targets: Sequence[str],
        candidates: Sequence[list[int]],
        answer: int,
    ) -> TokenizedRow:
        """Truncate source and candidates to the length limits, for families whose candidates continue a source.

        Args:
            source: token ids of the source, with the template's.
            source_tokens: number of tokens of the source before its context was truncated.
            targets: texts of the candidates.
            candidates: token ids of the candidates, end of text included.
            answer: index of the target among the candidates.

        Raises:
            RowError: two candidates have the same ids, or the source does not fit.
        """
        truncated = [truncate_target(ids, self.max_target_length) for ids in candidates]
        if len(targets) > 1:
            check_candidates_differ(targets, candidates)
            check_candidates_differ(targets, truncated, self.max_target_length, self.target_remedy)
        truncated_source = self._truncate_source(source)
        return {
            "source": truncated_source,
            "candidates": truncated,
            "answer": answer,
            "length": len(truncated_source) + sum(map(len, truncated)),
            "source_tokens": source_tokens,
            "target_tokens": max(map(len, candidates)),
            "segments": [],
        }
