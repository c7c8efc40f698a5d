"""Scores the candidates of a row together, after verifying that this gives the same log-likelihoods.

A model can read what the candidates of a row have in common once, and continue from there with each candidate: in the
same pass, with a mask that hides candidates from each other, or in a second one, from a cache.
Whether the result is correct depends on the model, the method around it and library versions, so no list of supported
models is kept. Instead, each evaluation scores some candidates without a cache too, and falls back to a slower strategy
if the results differ.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from peftkit.components.family_services import ScoreCandidates
from peftkit.components.types import CandidateScores, TokenizedRow
from peftkit.models.batches.padding_check import ignores_padding
from peftkit.models.decoding.batch_limits import Limits, limits
from peftkit.models.decoding.candidate_tree import CandidateTree
from peftkit.models.decoding.prefix_cache import base_for_cache
from peftkit.models.family import ModelFamily
from peftkit.models.heads.chunked_logprobs import Target, target_logprobs
from peftkit.models.heads.logits_to_keep import find_output_layer
from peftkit.models.heads.token_losses import tolerance
from peftkit.oom import is_oom

log = logging.getLogger(__name__)

NUM_VERIFIED = 4
"""Number of rows of an evaluation's first batch, and of candidates of each, that are scored without a cache too."""
ScoringStrategy = Callable[[nn.Module, Sequence[TokenizedRow], torch.device], CandidateScores]


class CachedScorer(ModelFamily):
    """A model family whose candidates continue a text."""

    def computes_all_logits(self, model: nn.Module) -> bool:
        return self.all_logits or find_output_layer(model) is None

    def loglikelihoods(self, model: nn.Module, rows: Sequence[TokenizedRow], device: torch.device) -> CandidateScores:
        return self.candidate_scorer(model)(rows, device)

    def candidate_scorer(self, model: nn.Module) -> ScoreCandidates:
        return CandidateScorer(self, model).score

    def strategies(self) -> Sequence[ScoringStrategy]:
        """Return the scoring strategies that share computation among candidates, the fastest first."""
        raise NotImplementedError

    def can_share(self, rows: Sequence[TokenizedRow]) -> bool:
        """Whether these strategies save computation in a batch.

        Args:
            rows: one batch of tokenized rows.
        """
        return any(len(row["candidates"]) > 1 for row in rows)

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

    def _rows_by_candidate(self, rows: Sequence[TokenizedRow]) -> list[list[int]]:
        """For each candidate index, list the rows that have it, so that no forward pass exceeds the batch size."""
        max_candidates = max(len(row["candidates"]) for row in rows)
        return [[i for i, row in enumerate(rows) if len(row["candidates"]) > n] for n in range(max_candidates)]


class CandidateScorer:
    """Scores the batches of one evaluation with the fastest strategy that passes verification on the first batch."""

    def __init__(self, family: CachedScorer, model: nn.Module) -> None:
        self.family, self.model = family, model
        self.strategies = list(family.strategies())
        self.verified = False

    def score(self, rows: Sequence[TokenizedRow], device: torch.device) -> CandidateScores:
        """Compute the log-likelihood of every candidate of every row.

        Args:
            rows: one batch of tokenized rows; it is scored in parts where that is faster.
            device: the model's device.
        """
        longest = max(len(row["source"]) + sum(map(len, row["candidates"])) for row in rows)
        number = math.ceil(len(rows) * longest / limits(device).tokens)
        size = math.ceil(len(rows) / number)
        parts = [self._score(rows[first : first + size], device) for first in range(0, len(rows), size)]
        return CandidateScores(
            [sums for part in parts for sums in part.loglikelihoods],
            [counts for part in parts for counts in part.num_tokens],
        )

    def _score(self, rows: Sequence[TokenizedRow], device: torch.device) -> CandidateScores:
        """Score rows that are read in one pass, if the strategy needs only one."""
        while self.strategies and self.family.can_share(rows):
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
        return self._score_without_padding_effects(rows, device)

    def _score_without_padding_effects(self, rows: Sequence[TokenizedRow], device: torch.device) -> CandidateScores:
        """Score without sharing; only candidates of the same length together if padding changes their scores."""
        scores = self.family.score_without_sharing(self.model, rows, device)
        chosen = [(i, n) for i, row in enumerate(rows) for n in range(len(row["candidates"]))]
        lengths = [(len(rows[i]["source"]), len(rows[i]["candidates"][n])) for i, n in chosen]

        def score_alone(numbers: Sequence[int]) -> list[float]:
            alone: list[TokenizedRow] = [
                {**rows[i], "candidates": [rows[i]["candidates"][n]], "answer": 0}
                for i, n in (chosen[number] for number in numbers)
            ]
            return [one for (one,) in self.family.score_without_sharing(self.model, alone, device).loglikelihoods]

        def differs(length: Callable[[tuple[int, int]], int]) -> bool | None:
            longest: dict[int, int] = {}  # candidates of the same index are padded together
            for (_, n), each in zip(chosen, lengths, strict=True):
                longest[n] = max(longest.get(n, 0), length(each))
            padding = [longest[n] - length(each) for (_, n), each in zip(chosen, lengths, strict=True)]
            if not any(padding):
                return None
            most = padding.index(max(padding))
            (expected,) = score_alone([most])
            i, n = chosen[most]
            difference = abs(scores.loglikelihoods[i][n] - expected)
            return difference > tolerance(self.model, device) * max(1.0, abs(expected))

        padded: dict[str, Callable[[tuple[int, int]], int]] = {
            "sources": itemgetter(0),
            "targets": itemgetter(1),
            "texts": sum,
        }
        if not all(
            ignores_padding(self.model, partial(differs, length_of), passes=name) for name, length_of in padded.items()
        ):
            order = sorted(range(len(lengths)), key=lengths.__getitem__)
            for _, group in itertools.groupby(order, key=lengths.__getitem__):
                numbers = list(group)
                for number, value in zip(numbers, score_alone(numbers), strict=True):
                    i, n = chosen[number]
                    scores.loglikelihoods[i][n] = value
        return scores

    def _find_difference(self, scores: CandidateScores, rows: Sequence[TokenizedRow], device: torch.device) -> str:
        """Compare some candidates of some rows with their scores without sharing; empty if they agree."""
        chosen = [
            (i, n) for i in spread(len(rows), NUM_VERIFIED) for n in spread(len(rows[i]["candidates"]), NUM_VERIFIED)
        ]
        alone: list[TokenizedRow] = [{**rows[i], "candidates": [rows[i]["candidates"][n]]} for i, n in chosen]
        rtol, size = tolerance(self.model, device), len(rows)
        for first in range(0, len(alone), size):
            reference = self.family.score_without_sharing(self.model, alone[first : first + size], device)
            for (i, n), (expected,) in zip(chosen[first : first + size], reference.loglikelihoods, strict=True):
                value = scores.loglikelihoods[i][n]
                close = abs(value - expected) <= rtol * max(1.0, abs(expected))
                if not (close or value == expected or (math.isnan(value) and math.isnan(expected))):
                    return f"a log-likelihood is {value:.6g} with the cache and {expected:.6g} without"
        return ""


def spread(length: int, number: int) -> list[int]:
    """Return at most a number of indices, spread over a sequence with its first and its last item.

    Args:
        length: the length of the sequence.
        number: the number of indices.
    """
    number = min(number, length)
    return [i * (length - 1) // max(1, number - 1) for i in range(number)]


@cache
def _warn_cache_not_shareable(model: str, problem: str) -> None:
    log.warning("candidates are scored more slowly, since the cache of %s cannot be shared: %s", model, problem)


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


class CandidateToken(NamedTuple):
    """A token of a candidate.

    Attributes:
        candidate_index: the index of the candidate among those of all rows.
        position: the position in the candidate.
    """

    candidate_index: int
    position: int


class CandidateLogprobs:
    """Collects the log-likelihood of each token of each candidate over several forward passes.

    Attributes:
        device: the model's device.
        prefix_lengths: for each row, the length of its candidates' common prefix in tokens.
        by_row: the candidates of each row.
    """

    def __init__(self, rows: Sequence[TokenizedRow], device: torch.device, *, common_prefixes: bool = True) -> None:
        self.device = device
        self.prefix_lengths = [common_prefix_length(row["candidates"]) if common_prefixes else 0 for row in rows]
        indices = itertools.count()
        self.by_row = [
            [Candidate(next(indices), i, ids, n) for ids in row["candidates"]]
            for i, (row, n) in enumerate(zip(rows, self.prefix_lengths, strict=True))
        ]
        longest = max(len(ids) for row in rows for ids in row["candidates"])
        self._values = torch.zeros(next(indices), longest, device=device)

    @property
    def with_suffix(self) -> list[Candidate]:
        """The candidates that have tokens to read after the common prefix."""
        return [c for candidates in self.by_row for c in candidates if c.suffix]

    def add(self, tokens: Sequence[CandidateToken], values: Tensor) -> None:
        """Add log-likelihoods of tokens.

        Args:
            tokens: the tokens.
            values: the log-likelihood of each, of shape (tokens,).
        """
        index = torch.tensor(tokens, device=values.device)
        self._values = self._values.to(values.dtype)
        self._values[index[:, 0], index[:, 1]] = values

    def read(
        self,
        model: nn.Module,
        run: Callable[[], Any],
        predicted: Iterable[tuple[CandidateToken, Target]],
        shape: Sequence[int],
    ) -> Any:
        """Run a model, and add the log-likelihoods of the tokens that it predicts.

        Args:
            model: the model.
            run: runs the model on a batch, and returns its output.
            predicted: the predicted tokens, at least one in each row of the batch.
            shape: the number of rows of the batch, and its length without positions that a method prepends.

        Returns:
            The model's output, with incomplete logits.
        """
        tokens, targets = zip(*predicted, strict=True)
        output, values = target_logprobs(model, run, targets, shape, self.device)
        self.add(tokens, values)
        return output

    def of_prefix(self, row: int, last: int) -> Iterator[tuple[CandidateToken, Target]]:
        """Yield what the common prefix of a row's candidates predicts: its own tokens and the next ones.

        Args:
            row: the index of the row.
            last: the position of the last token in front of the prefix.
        """
        for c in self.by_row[row]:
            for i in range(len(c.ids))[: c.prefix_length + 1]:
                yield CandidateToken(c.candidate_index, i), Target(row, last + i, c.ids[i])

    def of_trees(
        self, rows: Sequence[int], trees: Sequence[CandidateTree], roots: Sequence[int]
    ) -> Iterator[tuple[CandidateToken, Target]]:
        """Yield what the trees of candidates predict, each of which is in a row of a batch.

        Args:
            rows: the indices of the rows.
            trees: the tree of each row.
            roots: the position of each root; -1 if it is not in the batch.
        """
        for row, i in enumerate(rows):
            first, root = self.by_row[i][0].candidate_index, roots[i]
            for candidate, position, node, token in trees[i].predictions:
                if (column := root + 1 + node) >= 0:
                    yield CandidateToken(first + candidate, position), Target(row, column, token)

    @staticmethod
    def of_suffixes(batch: Sequence[Candidate]) -> Iterator[tuple[CandidateToken, Target]]:
        """Yield what the suffixes of candidates predict, each of which is a row of a batch.

        Args:
            batch: the candidates.
        """
        for row, c in enumerate(batch):
            for i in range(len(c.suffix)):
                position = c.prefix_length + 1 + i
                yield CandidateToken(c.candidate_index, position), Target(row, i, c.ids[position])

    def scores(self) -> CandidateScores:
        """Return the summed log-likelihood and the number of tokens of each candidate."""
        sums = self._values.sum(1).tolist()
        return CandidateScores(
            [[sums[c.candidate_index] for c in candidates] for candidates in self.by_row],
            [[len(c.ids) for c in candidates] for candidates in self.by_row],
        )


def batch_by_length(
    candidates: Iterable[Candidate],
    min_batch_size: int,
    row_bytes: int,
    limits: Limits,
    *,
    same_prefix_length: bool = False,
) -> Iterator[list[Candidate]]:
    """Batch candidates whose suffixes have similar lengths.

    Args:
        candidates: candidates with a suffix.
        min_batch_size: number of candidates that a batch may have regardless of its size in bytes.
        row_bytes: bytes of the cache that are copied for each candidate.
        limits: limits of a batch.
        same_prefix_length: whether the candidates of a batch must have prefixes of the same length.
    """
    batch: list[Candidate] = []
    tokens = 0
    for candidate in sorted(candidates, key=lambda c: (c.prefix_length if same_prefix_length else 0, len(c.suffix))):
        length = len(candidate.suffix)
        if batch and (
            (same_prefix_length and candidate.prefix_length != batch[0].prefix_length)
            or len(batch) >= max(min_batch_size, limits.bytes // max(1, row_bytes))
            or len(batch) * length - tokens > limits.padding
        ):
            yield batch
            batch, tokens = [], 0
        batch.append(candidate)
        tokens += length
    if batch:
        yield batch
