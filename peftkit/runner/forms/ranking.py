"""Ranking computes once what the candidates of a row have in common, and proves on the way that this changes nothing.

A decoder that reads the common part with a cache can go on from that cache with each candidate. Whether it does so
rightly depends on the model, on the method that wraps it and on their versions, and no list of them would stay true:
every evaluation compares some rows with candidates scored alone, and takes a slower way where they differ.
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

from peftkit.runner.forms.base import Form, Row, Scores, precise
from peftkit.runner.memory import ran_out

log = logging.getLogger(__name__)

CHECKED = 4
"""How many rows of an evaluation's first batch are scored alone too."""
Way = Callable[[nn.Module, Sequence[Row], torch.device], Scores]


class NotShared(Exception):  # noqa: N818 - no error: the candidates are scored in another way
    """The model's cache cannot be continued by several candidates."""


class Continuing(Form):
    """A form whose candidates continue a text."""

    def score(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        return self.ranker(model)(rows, device)

    def ranker(self, model: nn.Module) -> Callable[[Sequence[Row], torch.device], Scores]:
        return Ranker(self, model).score

    def ways(self) -> Sequence[Way]:
        """The ways of scoring that share something among candidates, the fastest first."""
        raise NotImplementedError

    def score_alone(self, model: nn.Module, rows: Sequence[Row], device: torch.device) -> Scores:
        """Scores by passes that share nothing: what every other way has to agree with."""
        raise NotImplementedError


class Ranker:
    """Scores the batches of one evaluation in the fastest way that agrees with scoring alone on the first of them."""

    def __init__(self, form: Continuing, model: nn.Module) -> None:
        self.form, self.model = form, model
        self.ways = list(form.ways())
        self.proven = False

    def score(self, rows: Sequence[Row], device: torch.device) -> Scores:
        """The log-likelihood of every candidate of every row."""
        while self.ways and any(len(row["candidates"]) > 1 for row in rows):
            try:
                scores = self.ways[0](self.model, rows, device)
                problem = "" if self.proven else self._difference(scores, rows, device)
            except Exception as error:  # a model that is not meant to be continued fails in any way it likes
                if ran_out(error):
                    raise
                problem = f"{type(error).__name__}: {error}".splitlines()[0]
            if not problem:
                self.proven = True
                return scores
            _tell(type(continued(self.model)).__name__, problem)
            self.ways, self.proven = self.ways[1:], False
        return self.form.score_alone(self.model, rows, device)

    def _difference(self, scores: Scores, rows: Sequence[Row], device: torch.device) -> str:
        """What is wrong with the scores, judged by rows from the first to the last."""
        number = min(CHECKED, len(rows))
        which = [i * (len(rows) - 1) // max(1, number - 1) for i in range(number)]
        alone = self.form.score_alone(self.model, [rows[i] for i in which], device)
        share = tolerance(self.model, device)
        for i, right in zip(which, alone.sums, strict=True):
            for one, other in zip(scores.sums[i], right, strict=True):
                near = abs(one - other) <= share * max(1.0, abs(other))
                if not (near or one == other or (math.isnan(one) and math.isnan(other))):
                    return f"{one:.6g} where {other:.6g} is right"
        return ""


@cache
def _tell(model: str, problem: str) -> None:
    log.warning("candidates are ranked more slowly, since the cache of %s cannot be shared: %s", model, problem)


def tolerance(model: nn.Module, device: torch.device) -> float:
    """How far a score may be from the same one computed in other shapes, as a share of it and at least of 1."""
    if torch.is_autocast_enabled(device.type):
        dtypes = {torch.get_autocast_dtype(device.type)}
    else:
        dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        dtypes.add(torch.float16)  # of as many bits as TF32
    return max(1e-4, *(2 * torch.finfo(dtype).eps for dtype in dtypes))


class Candidate(NamedTuple):
    """A candidate of a row; ``shared`` of its tokens are read together with the other candidates."""

    number: int
    row: int
    ids: list[int]
    shared: int

    @property
    def rest(self) -> list[int]:
        """What remains to be read; the last token is predicted only."""
        return self.ids[self.shared : -1]


def common(candidates: Sequence[list[int]]) -> int:
    """How many tokens all candidates begin with and read."""
    first, last = min(candidates), max(candidates)  # what the two begin with, all that stand between them do
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return max(0, min(same, *(len(ids) - 1 for ids in candidates)))


class Likelihoods:
    """The log-likelihood of each token of each candidate, noted pass by pass and read at the end."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        self.device = device
        self.shared = [common(row["candidates"]) for row in rows]
        each = [(i, ids) for i, row in enumerate(rows) for ids in row["candidates"]]
        self.candidates = [Candidate(number, i, ids, self.shared[i]) for number, (i, ids) in enumerate(each)]
        self._values = torch.zeros(len(each), max(len(ids) for _, ids in each), device=device)
        self._numbers = [len(row["candidates"]) for row in rows]

    @property
    def unread(self) -> list[Candidate]:
        """The candidates of which something remains to be read after the shared part."""
        return [c for c in self.candidates if c.rest]

    def note_shared(self, logits: Tensor, column: Callable[[int, int], int]) -> None:
        """Takes what the shared part predicts: the tokens in it and each candidate's next.

        Args:
            logits: rows × columns × vocabulary.
            column: of a row, and of a number of candidate tokens that have been read.
        """
        self._note(
            logits,
            ((c, t, c.row, column(c.row, t)) for c in self.candidates for t in range(len(c.ids))[: c.shared + 1]),
        )

    def note_rest(self, logits: Tensor, places: Iterable[tuple[Candidate, int, int]]) -> None:
        """Takes what the rests predict.

        Args:
            logits: rows × columns × vocabulary.
            places: of each candidate the row and the column where its rest begins.
        """
        self._note(
            logits, ((c, c.shared + 1 + i, row, first + i) for c, row, first in places for i in range(len(c.rest)))
        )

    def _note(self, logits: Tensor, places: Iterable[tuple[Candidate, int, int, int]]) -> None:
        flat = [(c.number, place, row, column, c.ids[place]) for c, place, row, column in places]
        if flat:
            number, place, row, column, token = torch.tensor(flat, device=logits.device).unbind(1)
            likelihoods = precise(logits).log_softmax(-1)[row, column, token]
            self._values = self._values.to(likelihoods.dtype)
            self._values[number, place] = likelihoods

    def scores(self) -> Scores:
        """Each candidate's sum, and its number of tokens."""
        sums, lengths = iter(self._values.sum(1).tolist()), (len(c.ids) for c in self.candidates)
        return Scores(*([[next(each) for _ in range(n)] for n in self._numbers] for each in (sums, lengths)))


@dataclass(frozen=True)
class Limits:
    """What one pass may take: bytes of copied caches, logits and likelihoods, and tokens that only fill up."""

    bytes: int
    filling: int


CPU = Limits(32 * 2**20, 64)
"""Where logits do not fit the processor's own caches, larger passes are slower ones; a pass costs some 50 tokens."""
ACCELERATOR = Limits(256 * 2**20, 2048)
"""Passes cost more than filling."""


def limits(device: torch.device) -> Limits:
    """The limits that suit the device."""
    return CPU if device.type == "cpu" else ACCELERATOR


def groups(
    candidates: Iterable[Candidate], rows: int, row: int, vocabulary: int, limits: Limits, *, same: bool = False
) -> Iterator[list[Candidate]]:
    """The candidates in groups of like lengths that go through one pass each.

    Args:
        candidates: those that have something to read.
        rows: of the batch; as many candidates may be in a group at any rate.
        row: the bytes that are copied of the cache for each candidate.
        vocabulary: the width of the logits, which are taken to be in float32, and so are the likelihoods.
        limits: what a group may take beyond that.
        same: whether all of a group must have shared the same number of tokens.
    """
    group: list[Candidate] = []
    tokens = 0
    for one in sorted(candidates, key=lambda c: (c.shared if same else 0, len(c.rest))):
        length = len(one.rest)
        if group and (
            (same and one.shared != group[0].shared)
            or len(group) >= max(rows, limits.bytes // (row + length * vocabulary * 8))
            or len(group) * length - tokens > limits.filling
        ):
            yield group
            group, tokens = [], 0
        group.append(one)
        tokens += length
    if group:
        yield group


def continued(model: nn.Module) -> nn.Module:
    """The model that goes on from a cache: peft's prompt methods would put their prompt in front once more."""
    config = getattr(model, "active_peft_config", None)
    return model.get_base_model() if config is not None and config.is_prompt_learning else model  # type: ignore[operator]


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the model, below a wrapper of peft, knows the argument by name."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return argument in inspect.signature(base.forward).parameters


def layers(cache: Any, positions: int = 0) -> list[Any]:
    """The layers of a cache, if they hold the keys and values of every position and will not drop any.

    Args:
        cache: what a model has returned as ``past_key_values``.
        positions: how many it will have to hold.

    Raises:
        NotShared: it is none, or one of another kind.
    """
    if isinstance(cache, EncoderDecoderCache):
        return layers(cache.self_attention_cache, positions) + layers(cache.cross_attention_cache)
    if not isinstance(cache, Cache):
        raise NotShared(f"it is a {type(cache).__name__}")
    if not cache.layers or any(layer.keys is None for layer in cache.layers):
        raise NotShared("it is empty")
    for layer in cache.layers:
        kind = type(layer)
        if kind is not DynamicLayer and not (kind is DynamicSlidingWindowLayer and positions <= layer.sliding_window):
            raise NotShared(f"it has a {kind.__name__}")
    return list(cache.layers)


def row_bytes(cache: Any) -> int:
    """The bytes of one row of a cache."""
    return sum(t[0].numel() * t.element_size() for layer in layers(cache) for t in (layer.keys, layer.values))


def part(cache: Any, which: Tensor | slice, positions: int | None = None) -> Any:
    """A cache of some rows of another, which stays as it is.

    Args:
        cache: one whose ``layers`` are known.
        which: the rows, each as often as it is wanted; for a slice nothing is copied.
        positions: how many, from the first; the cross-attention's stay whole.
    """
    if isinstance(cache, EncoderDecoderCache):
        own, cross = cache.self_attention_cache, cache.cross_attention_cache
        return EncoderDecoderCache(part(own, which, positions), part(cross, which))
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in chosen.layers:
        keys, values = layer.keys[:, :, :positions], layer.values[:, :, :positions]
        if isinstance(which, slice):
            layer.keys, layer.values = keys[which], values[which]
        else:  # on a processor several times as fast as indexing
            layer.keys, layer.values = keys.index_select(0, which), values.index_select(0, which)
    return chosen
