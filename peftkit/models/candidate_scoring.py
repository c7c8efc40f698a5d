"""Scores candidates with a shared KV cache, after verifying that this gives the same log-likelihoods.

A decoder can read what the candidates of a row have in common once, and continue from that cache with each candidate.
Whether the result is correct depends on the model, the method around it and library versions, so no list of supported
models is kept. Instead, each evaluation scores some rows without a cache too, and falls back to a slower strategy if
the results differ.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache

from peftkit.components.family_services import ScoreCandidates
from peftkit.components.inputs import CandidateScores, TokenizedRow
from peftkit.models.family import ModelFamily
from peftkit.models.scores import at_least_float32
from peftkit.oom import is_oom

log = logging.getLogger(__name__)

NUM_VERIFIED_ROWS = 4
"""Number of rows of an evaluation's first batch that are scored without a cache too."""
ScoringStrategy = Callable[[nn.Module, Sequence[TokenizedRow], torch.device], CandidateScores]


class CacheNotShareable(Exception):  # noqa: N818 - no error: another strategy is used
    """The model's cache cannot be shared by several candidates."""


class CachedScorer(ModelFamily):
    """A model family whose candidates continue a text."""

    def loglikelihoods(self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device) -> CandidateScores:
        return self.candidate_scorer(model)(rows, device)

    def candidate_scorer(self, model: nn.Module) -> ScoreCandidates:
        return CandidateScorer(self, model).score

    def strategies(self) -> Sequence[ScoringStrategy]:
        """Return the scoring strategies that share computation among candidates, the fastest first."""
        raise NotImplementedError

    def score_without_sharing(
        self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device
    ) -> CandidateScores:
        """Score candidates without sharing anything; the reference for the other strategies.

        Args:
            model: the model, in evaluation mode.
            rows: one batch of tokenized rows.
            device: the model's device.
        """
        raise NotImplementedError


class CandidateScorer:
    """Scores the batches of one evaluation with the fastest strategy that passes verification on the first batch."""

    def __init__(self, family: CachedScorer, model: nn.Module) -> None:
        self.family, self.model = family, model
        self.strategies = list(family.strategies())
        self.verified = False

    def score(self, rows: Sequence[TokenizedRow], device: torch.device) -> CandidateScores:
        """Compute the log-likelihood of every candidate of every row.

        Args:
            rows: one batch of tokenized rows.
            device: the model's device.
        """
        while self.strategies and any(len(row["candidates"]) > 1 for row in rows):
            try:
                scores = self.strategies[0](self.model, rows, device)
                problem = "" if self.verified else self._find_difference(scores, rows, device)
            except Exception as error:  # models that do not support continuing a cache raise all kinds of errors
                if is_oom(error):
                    raise
                problem = f"{type(error).__name__}: {error}".splitlines()[0]
            if not problem:
                self.verified = True
                return scores
            _warn_cache_not_shareable(type(base_for_cache(self.model)).__name__, problem)
            self.strategies, self.verified = self.strategies[1:], False
        return self.family.score_without_sharing(self.model, rows, device)

    def _find_difference(self, scores: CandidateScores, rows: Sequence[TokenizedRow], device: torch.device) -> str:
        """Compare some rows, spread over the batch, with their scores without a cache; empty if they agree."""
        number = min(NUM_VERIFIED_ROWS, len(rows))
        indices = [i * (len(rows) - 1) // max(1, number - 1) for i in range(number)]
        reference = self.family.score_without_sharing(self.model, [rows[i] for i in indices], device)
        rtol = tolerance(self.model, device)
        for i, reference_sums in zip(indices, reference.loglikelihoods, strict=True):
            for value, expected in zip(scores.loglikelihoods[i], reference_sums, strict=True):
                close = abs(value - expected) <= rtol * max(1.0, abs(expected))
                if not (close or value == expected or (math.isnan(value) and math.isnan(expected))):
                    return f"a log-likelihood is {value:.6g} with the cache and {expected:.6g} without"
        return ""


@cache
def _warn_cache_not_shareable(model: str, problem: str) -> None:
    log.warning("candidates are scored more slowly, since the cache of %s cannot be shared: %s", model, problem)


def tolerance(model: nn.Module, device: torch.device) -> float:
    """Return the relative tolerance between results of the same computation in tensors of different shapes.

    Args:
        model: the model; its least precise dtype counts.
        device: the device; autocast and TF32 count.
    """
    if torch.is_autocast_enabled(device.type):
        dtypes = {torch.get_autocast_dtype(device.type)}
    else:
        dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        dtypes.add(torch.float16)  # has as many mantissa bits as TF32
    return max(1e-4, *(2 * torch.finfo(dtype).eps for dtype in dtypes))


class Candidate(NamedTuple):
    """A candidate of a row.

    Attributes:
        candidate_index: its index among the candidates of all rows.
        row: the index of its row.
        ids: its token ids.
        prefix_length: the number of its tokens that all candidates of the row have in common.
    """

    candidate_index: int
    row: int
    ids: list[int]
    prefix_length: int

    @property
    def suffix(self) -> list[int]:
        """The tokens to read after the common prefix, without the last token, which is only predicted."""
        return self.ids[self.prefix_length : -1]


def common_prefix_length(candidates: Sequence[list[int]]) -> int:
    """Return the number of leading tokens that all candidates share and that the model reads."""
    first, last = min(candidates), max(candidates)  # the common prefix of these two is common to all in between
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return max(0, min(common, *(len(ids) - 1 for ids in candidates)))


class CandidateLogprobs:
    """Collects the log-likelihood of each token of each candidate over several forward passes.

    Attributes:
        device: the model's device.
        prefix_lengths: for each row, the length of its candidates' common prefix in tokens.
        candidates: the candidates of all rows.
    """

    def __init__(self, rows: Sequence[TokenizedRow], device: torch.device) -> None:
        self.device = device
        self.prefix_lengths = [common_prefix_length(row["candidates"]) for row in rows]
        row_and_ids = [(i, ids) for i, row in enumerate(rows) for ids in row["candidates"]]
        self.candidates = [
            Candidate(index, i, ids, self.prefix_lengths[i]) for index, (i, ids) in enumerate(row_and_ids)
        ]
        self._values = torch.zeros(len(row_and_ids), max(len(ids) for _, ids in row_and_ids), device=device)
        self._counts = [len(row["candidates"]) for row in rows]

    @property
    def with_suffix(self) -> list[Candidate]:
        """The candidates that have tokens to read after the common prefix."""
        return [c for c in self.candidates if c.suffix]

    def add_prefixes(self, logits: Tensor, column: Callable[[int, int], int]) -> None:
        """Add the logits of the common prefixes: they predict the tokens in these and the next one.

        Args:
            logits: logits of shape (rows, length, vocabulary).
            column: returns the column of the logits for a row and a number of candidate tokens read.
        """
        self._add(
            logits,
            (
                (c, position, c.row, column(c.row, position))
                for c in self.candidates
                for position in range(len(c.ids))[: c.prefix_length + 1]
            ),
        )

    def add_suffixes(self, logits: Tensor, positions: Iterable[tuple[Candidate, int, int]]) -> None:
        """Add the logits of the candidates' suffixes.

        Args:
            logits: logits of shape (rows, length, vocabulary).
            positions: for each candidate, the row and the column of the logits where its suffix starts.
        """
        self._add(
            logits,
            ((c, c.prefix_length + 1 + i, row, first + i) for c, row, first in positions for i in range(len(c.suffix))),
        )

    def _add(self, logits: Tensor, positions: Iterable[tuple[Candidate, int, int, int]]) -> None:
        flat = [(c.candidate_index, position, row, column, c.ids[position]) for c, position, row, column in positions]
        if flat:
            index, position, row, column, token = torch.tensor(flat, device=logits.device).unbind(1)
            logprobs = at_least_float32(logits).log_softmax(-1)[row, column, token]
            self._values = self._values.to(logprobs.dtype)
            self._values[index, position] = logprobs

    def scores(self) -> CandidateScores:
        """Return the summed log-likelihood and the number of tokens of each candidate."""
        sums, lengths = iter(self._values.sum(1).tolist()), (len(c.ids) for c in self.candidates)
        return CandidateScores(
            *([[next(values) for _ in range(n)] for n in self._counts] for values in (sums, lengths))
        )


@dataclass(frozen=True)
class Limits:
    """Limits of one forward pass over suffixes.

    Attributes:
        bytes: maximum bytes of copied caches, logits and log-likelihoods.
        padding: maximum number of padding tokens.
    """

    bytes: int
    padding: int


CPU = Limits(32 * 2**20, 64)
"""Logits that do not fit the processor's caches make larger passes slower; a pass costs about as much as 50 tokens."""
ACCELERATOR = Limits(256 * 2**20, 2048)
"""A pass costs more than its padding."""


def limits(device: torch.device) -> Limits:
    """Return the limits for a device."""
    return CPU if device.type == "cpu" else ACCELERATOR


def batch_by_length(
    candidates: Iterable[Candidate],
    min_batch_size: int,
    row_bytes: int,
    vocab_size: int,
    limits: Limits,
    *,
    same_prefix_length: bool = False,
) -> Iterator[list[Candidate]]:
    """Batch candidates whose suffixes have similar lengths.

    Args:
        candidates: candidates with a suffix.
        min_batch_size: number of candidates that a batch may have regardless of its size in bytes.
        row_bytes: bytes of the cache that are copied for each candidate.
        vocab_size: size of the vocabulary; logits and log-likelihoods are assumed to be in float32.
        limits: limits of a batch.
        same_prefix_length: whether the candidates of a batch must have prefixes of the same length.
    """
    batch: list[Candidate] = []
    tokens = 0
    for candidate in sorted(candidates, key=lambda c: (c.prefix_length if same_prefix_length else 0, len(c.suffix))):
        length = len(candidate.suffix)
        if batch and (
            (same_prefix_length and candidate.prefix_length != batch[0].prefix_length)
            or len(batch) >= max(min_batch_size, limits.bytes // (row_bytes + length * vocab_size * 8))
            or len(batch) * length - tokens > limits.padding
        ):
            yield batch
            batch, tokens = [], 0
        batch.append(candidate)
        tokens += length
    if batch:
        yield batch


def base_for_cache(model: nn.Module) -> nn.Module:
    """Return the model to continue a cache with: peft's prompt methods would prepend their prompt again."""
    config = getattr(model, "active_peft_config", None)
    return model.get_base_model() if config is not None and config.is_prompt_learning else model  # type: ignore[operator]


def accepts_argument(model: nn.Module, argument: str) -> bool:
    """Whether ``forward`` of the model, without peft's wrapper, has a parameter of that name.

    Args:
        model: the model.
        argument: the name of the parameter.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return argument in inspect.signature(base.forward).parameters


def cache_layers(cache: Any, positions: int = 0) -> list[Any]:
    """Return the layers of a cache that keeps the keys and values of all positions.

    Args:
        cache: the ``past_key_values`` that a model returned.
        positions: number of positions that the cache must be able to hold.

    Raises:
        CacheNotShareable: it is empty, not a cache, or of a type that may drop positions.
    """
    if isinstance(cache, EncoderDecoderCache):
        return cache_layers(cache.self_attention_cache, positions) + cache_layers(cache.cross_attention_cache)
    if not isinstance(cache, Cache):
        raise CacheNotShareable(f"it is a {type(cache).__name__}")
    if not cache.layers or any(layer.keys is None for layer in cache.layers):
        raise CacheNotShareable("it is empty")
    for layer in cache.layers:
        kind = type(layer)
        if kind is not DynamicLayer and not (kind is DynamicSlidingWindowLayer and positions <= layer.sliding_window):
            raise CacheNotShareable(f"it has a {kind.__name__}")
    return list(cache.layers)


def cache_row_bytes(cache: Any) -> int:
    """Return the size of one row of a cache in bytes."""
    return sum(t[0].numel() * t.element_size() for layer in cache_layers(cache) for t in (layer.keys, layer.values))


def slice_cache(cache: Any, rows: Tensor | slice, positions: int | None = None) -> Any:
    """Return some rows of a cache as a new cache.

    Args:
        cache: a cache accepted by ``cache_layers``; it is not changed.
        rows: row indices of shape (new rows,), which may repeat, or a slice, which copies nothing.
        positions: number of positions to keep from the start; cross-attention keeps all.
    """
    if isinstance(cache, EncoderDecoderCache):
        self_attention, cross_attention = cache.self_attention_cache, cache.cross_attention_cache
        return EncoderDecoderCache(slice_cache(self_attention, rows, positions), slice_cache(cross_attention, rows))
    sliced = copy.copy(cache)
    sliced.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in sliced.layers:
        keys, values = layer.keys[:, :, :positions], layer.values[:, :, :positions]
        if isinstance(rows, slice):
            layer.keys, layer.values = keys[rows], values[rows]
        else:  # several times faster than indexing on a CPU
            layer.keys, layer.values = keys.index_select(0, rows), values.index_select(0, rows)
    return sliced
