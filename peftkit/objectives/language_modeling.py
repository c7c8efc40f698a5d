"""Language modeling: every token of a text is predicted from those before it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from peftkit.components import Example, ModelKind, Objective, Prediction
from peftkit.components.objective_context import ObjectiveContext
from peftkit.components.types import Row
from peftkit.errors import InputError, RowError
from peftkit.objectives.completions import count_unknown_targets

if TYPE_CHECKING:
    from torch import Tensor, nn


class _TextLikelihood(Objective):
    """Base class of objectives whose predictions are likelihoods of texts."""

    task_kind = "language_modeling"
    scored_values = ("likelihood",)

    def answer(self, example: Example) -> str:
        """Return a digest of the text: no answer exists that baselines could give to another text."""
        return hashlib.blake2b(example.source.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def answer_text(self, answer: str, example: Example) -> str:
        """Return an empty text, as in predictions."""
        return ""

    def describe_constant_answer(self, answer: str) -> tuple[str, str]:
        """Describe that all texts are equal."""
        return "the text is the same", "use different texts"


class CausalLanguageModeling(_TextLikelihood):
    """Language modeling of whole texts by a decoder; a text is a document.

    Every token is predicted exactly once; the first one from the tokenizer's start of text, or from its end of text if
    it has no start. Texts that are longer than a block are split. A block of training starts with the last token of the
    one before it. In evaluation blocks overlap, so that tokens are predicted with more context, as in transformers'
    guide to perplexity. Blocks of a text are a row of a batch; all of them are trained on in one step.
    """

    name: Literal["causal_language_modeling"] = "causal_language_modeling"

    block_size: int | None = Field(default=None, ge=2)
    """Number of tokens of a block, at most the model's positions; `train.max_source_length` if unset."""
    stride: int | None = Field(default=None, ge=1)
    """Number of tokens that each further block of an evaluated text predicts; the others are context. Less is more
    precise and takes longer. Half of a block if unset."""

    used_settings = ("max_new_tokens", "num_beams", "stop", "temperature")  # in predictions, which continue a text
    families: ClassVar[tuple[ModelKind, ...]] = ("decoder",)

    @model_validator(mode="after")
    def _check_stride(self) -> CausalLanguageModeling:
        if self.stride and self.block_size:
            _check_stride(self.stride, self.block_size)
        return self

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize texts; a row has a whole text, ``source``, and its ``blocks`` (see ``split_text``).

        Raises:
            InputError: The blocks or the stride do not fit.
            RowError: A text has no tokens, or some that the model does not know.
        """
        size = self._block_size(context)
        stride = size - 1 if training else self.stride or max(1, size // 2)
        try:
            _check_stride(stride, size)
        except ValueError as error:
            raise InputError(f"objective.{error}") from error
        return [
            _build_row(start, ids, size, stride, context) for start, ids in context.family.tokenize_documents(examples)
        ]

    def _block_size(self, context: ObjectiveContext) -> int:
        size, positions = self.block_size or context.family.max_source_length, context.family.max_decoder_length
        if positions is not None and size > positions:
            raise InputError(
                f"objective.block_size: {size} tokens exceed the {positions} positions that the model has for texts; "
                "lower it"
            )
        return size

    def collate(self, rows: Sequence[Row], context: ObjectiveContext) -> dict[str, Tensor]:
        """Make a text of each block; ``choices`` has the number of blocks of each row."""
        import torch

        texts = [text for row in rows for text in _blocks(row)]
        return {**context.family.collate(texts), "choices": torch.tensor([len(row["blocks"]) for row in rows])}

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Sum the log-likelihoods of each text's tokens; texts to predict are continued instead."""
        if not has_targets:
            return self._continue(model, rows, context)
        blocks = [(number, block) for number, row in enumerate(rows) for block in _blocks(row)]
        sums, counts = [0.0] * len(rows), [0] * len(rows)
        for first in range(0, len(blocks), len(rows)):
            part = blocks[first : first + len(rows)]
            scores = context.score_candidates(model, [block for _, block in part])
            for (number, _), (loglikelihood,), (tokens,) in zip(
                part, scores.loglikelihoods, scores.num_tokens, strict=True
            ):
                sums[number] -= loglikelihood
                counts[number] += tokens
        return [
            _likelihood(nats, tokens, example.source)
            for nats, tokens, example in zip(sums, counts, examples, strict=True)
        ]

    def _continue(self, model: nn.Module, rows: Sequence[Row], context: ObjectiveContext) -> list[Prediction]:
        """Generate what follows each text; ``prediction`` is what metrics of texts would score, so it stays empty."""
        family = context.family
        prompts = []
        for row in rows:
            _, start, _ = row["blocks"][0]
            first = max(start, len(row["source"]) - max(1, family.max_source_length - start))
            prompt = [*row["source"][:start], *row["source"][first:]]
            prompts.append({**row, "source": prompt, "candidates": [[]], "answer": 0})
        number = min(context.settings.max_new_tokens, family.max_target_length)
        generated = context.generate(model, prompts, max_new_tokens=number)
        return [{"prediction": "", "continuation": each["prediction"]} for each in generated]

    def count_unknown_targets(self, rows: Sequence[Row], context: ObjectiveContext) -> int:
        """Return how many texts have the unknown token, which is easier to predict than what it stands for."""
        return sum(context.family.contains_unk(row["source"][row["blocks"][0][1] :]) for row in rows)


class ConditionalLanguageModeling(_TextLikelihood):
    """Language modeling by an encoder-decoder, which reads the first half of each text and predicts the second.

    That is the prefix language modeling of T5 (Raffel et al., 2020, section 3.3.1). Halves have the same number of
    words; a text whose task says which part is predicted is split there. Bits per byte are those of the predicted part
    and of the end of the text, given the first part.
    """

    name: Literal["conditional_language_modeling"] = "conditional_language_modeling"

    used_settings = ("max_new_tokens", "num_beams", "stop", "temperature")  # in predictions, which continue a text
    families: ClassVar[tuple[ModelKind, ...]] = ("encoder-decoder",)

    def tokenize(self, examples: Sequence[Example], context: ObjectiveContext, *, training: bool) -> Sequence[Row]:
        """Tokenize both parts of texts.

        Raises:
            RowError: A text has one word, or some that the model does not know.
        """
        return context.family.tokenize_completions([split_example(each) for each in examples], ranked=False)

    def predict(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        examples: Sequence[Example],
        context: ObjectiveContext,
        *,
        has_targets: bool,
    ) -> list[Prediction]:
        """Sum the log-likelihoods of the tokens of each second part; texts to predict are continued instead."""
        if not has_targets:
            return [{"prediction": "", "continuation": text} for text in context.generate(model, rows)]
        scores = context.score_candidates(model, rows)
        return [
            _likelihood(-loglikelihood, tokens, split_example(example).target)
            for (loglikelihood,), (tokens,), example in zip(
                scores.loglikelihoods, scores.num_tokens, examples, strict=True
            )
        ]

    def count_unknown_targets(self, rows: Sequence[Row], context: ObjectiveContext) -> int:
        """Return how many second parts have the unknown token."""
        return count_unknown_targets(rows, context)


def split_example(example: Example) -> Example:
    """Split a text into the part that is read and the one that is predicted.

    Args:
        example: The text as its source, whose target is the part to predict, or the whole text if no part is named.

    Raises:
        RowError: The text has one word.
    """
    if example.target and example.target != example.source and example.source.endswith(example.target):
        return replace(example, source=example.source.removesuffix(example.target).rstrip())
    words = [*re.finditer(r"\S+", example.source)]
    if len(words) < 2:
        raise RowError("text", "it has one word; an encoder-decoder reads half of a text and predicts the rest")
    middle = words[len(words) // 2].start()
    return replace(example, source=example.source[:middle].rstrip(), target=example.source[middle:])


def _likelihood(nats: float, tokens: int, text: str) -> Prediction:
    """Return the prediction of a text.

    Args:
        nats: Its negative log-likelihood.
        tokens: The number of its predicted tokens.
        text: The text that they stand for.
    """
    likelihood = {"nats": nats, "tokens": tokens, "bytes": len(text.encode())}
    return {"prediction": "", "loss": nats, "tokens": tokens, "likelihood": likelihood}


def _check_stride(stride: int, size: int) -> None:
    """Check that at least one token of a block is context.

    Raises:
        ValueError: There is no such token.
    """
    if stride >= size:
        raise ValueError(f"stride: {stride} tokens must be fewer than those of a block, {size}")


def _build_row(
    start: Sequence[int], ids: Sequence[int], size: int, stride: int, context: ObjectiveContext
) -> dict[str, Any]:
    """Split a text into blocks.

    Args:
        start: What its first token is predicted from.
        ids: Its tokens.
        size: Number of tokens of a block, with context.
        stride: Number of tokens that each block after the first predicts.
        context: The context.
    """
    whole = [*start, *ids]
    blocks = [[*block] for block in split_text(len(whole), len(start), size, stride)]
    lengths = [end - begin for begin, _, end in blocks]
    return {
        "source": whole,
        "blocks": blocks,
        "length": sum(lengths),
        # Rows of similar length are evaluated together. Nothing is truncated, however long a block is.
        "source_tokens": min(max(lengths), context.family.max_source_length),
        "target_tokens": 0,
    }


def split_text(length: int, start: int, size: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Split a text into overlapping blocks that predict each of its tokens once.

    Args:
        length: Number of tokens of the text, including those at its start that are not predicted.
        start: Number of those.
        size: Number of tokens of a block.
        stride: Number of tokens that each block after the first predicts.

    Yields:
        Of each block, where it begins, the first token that it predicts, and where it ends.
    """
    begin, first = 0, start
    while first < length:
        end = min(begin + size, length)
        yield begin, first, end
        begin, first = begin + stride, end


def _blocks(row: Row) -> list[dict[str, Any]]:
    """Return the blocks of a row as rows whose target continues the source."""
    ids = row["source"]
    return [
        {
            "source": ids[begin:first],
            "candidates": [ids[first:end]],
            "answer": 0,
            "length": end - begin,
            "source_tokens": first - begin,
            "target_tokens": end - first,
        }
        for begin, first, end in row["blocks"]
    ]
