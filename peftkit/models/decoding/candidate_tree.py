"""Packs the candidates of a row into one sequence: a tree in which common prefixes are read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from peftkit.models.batches.padding import attention_mask, pad_sequences


class Prediction(NamedTuple):
    """A token of a candidate, and where it is predicted.

    Attributes:
        candidate: the index of the candidate.
        position: the position in the candidate.
        node: the node that predicts it; -1 for the last token of the source.
        token: its id.
    """

    candidate: int
    position: int
    node: int
    token: int


class CandidateTree(NamedTuple):
    """The tokens of candidates that the model reads: all but the last of each.

    Attributes:
        tokens: the token id of each node, in depth-first order.
        depths: the position of each node in its candidates.
        ends: for each node, the index after its last descendant.
        predictions: all tokens of all candidates.
    """

    tokens: list[int]
    depths: list[int]
    ends: list[int]
    predictions: list[Prediction]


def candidate_tree(candidates: Sequence[Sequence[int]]) -> CandidateTree:
    """Build the tree of a row's candidates.

    Args:
        candidates: the token ids of each candidate.
    """
    return _build_tree(tuple(map(tuple, candidates)))


@lru_cache(maxsize=64)  # rows of a classification have the same labels
def _build_tree(candidates: tuple[tuple[int, ...], ...]) -> CandidateTree:
    tree = CandidateTree([], [], [], [])
    path: list[int] = []  # the nodes of the previous candidate
    for index in sorted(range(len(candidates)), key=candidates.__getitem__):
        ids = candidates[index]
        pairs = zip(path, ids[:-1], strict=False)
        common = next((i for i, (node, token) in enumerate(pairs) if tree.tokens[node] != token), None)
        common = min(len(path), len(ids) - 1) if common is None else common
        _close(tree, path, common)
        for depth in range(common, len(ids) - 1):
            path.append(len(tree.tokens))
            tree.tokens.append(ids[depth])
            tree.depths.append(depth)
            tree.ends.append(0)
        nodes = [-1, *path]
        tree.predictions.extend(Prediction(index, i, nodes[i], token) for i, token in enumerate(ids))
    _close(tree, path, 0)
    return tree


def _close(tree: CandidateTree, path: list[int], depth: int) -> None:
    """Remove the nodes from a depth on from a path: they have all their descendants."""
    for node in path[depth:]:
        tree.ends[node] = len(tree.tokens)
    del path[depth:]


def candidate_chains(candidates: Sequence[Sequence[int]], start_id: int) -> CandidateTree:
    """Place the candidates of a row one after another, each with its own start, without sharing prefixes.

    Args:
        candidates: the token ids of each candidate.
        start_id: the id that a decoder starts with.
    """
    return _build_chains(tuple(map(tuple, candidates)), start_id)


@lru_cache(maxsize=64)
def _build_chains(candidates: tuple[tuple[int, ...], ...], start_id: int) -> CandidateTree:
    chains = CandidateTree([], [], [], [])
    nodes: dict[tuple[int, ...], int] = {}  # the first node after each prefix: all others predict the same
    for index, ids in enumerate(candidates):
        first = len(chains.tokens)
        chains.tokens.extend([start_id, *ids[:-1]])
        chains.depths.extend(range(len(ids)))
        chains.ends.extend([first + len(ids)] * len(ids))
        for i, token in enumerate(ids):
            chains.predictions.append(Prediction(index, i, nodes.setdefault(ids[:i], first + i), token))
    return chains


@dataclass(frozen=True)
class PackedTexts:
    """A batch of texts that continue with a tree of candidates.

    Attributes:
        ids: token ids of each row.
        positions: their positions.
        ends: for each of them, the column after the last one that may attend to it.
    """

    ids: list[list[int]]
    positions: list[list[int]]
    ends: list[list[int]]

    @classmethod
    def build(
        cls, texts: Sequence[Sequence[int]], first_positions: Sequence[int], trees: Sequence[CandidateTree]
    ) -> PackedTexts:
        """Pack texts and trees.

        Args:
            texts: the token ids in front of each tree, without those in the cache.
            first_positions: the position of the first token of each row.
            trees: the candidates of each row.
        """
        ids, positions, ends = [], [], []
        for text, first, tree in zip(texts, first_positions, trees, strict=True):
            length, after = len(text), first + len(text)
            ids.append([*text, *tree.tokens])
            positions.append([*range(first, after), *(after + depth for depth in tree.depths)])
            ends.append([length + len(tree.tokens)] * length + [length + end for end in tree.ends])
        return cls(ids, positions, ends)

    @property
    def length(self) -> int:
        """The length of the longest row."""
        return max(map(len, self.ids))

    def select(self, rows: Sequence[int]) -> PackedTexts:
        """Return some of the rows."""
        return PackedTexts(*([values[i] for i in rows] for values in (self.ids, self.positions, self.ends)))

    def inputs(self, cached: Tensor, dtype: torch.dtype, pad_id: int) -> dict[str, Tensor]:
        """Build the arguments of a model's forward pass.

        Args:
            cached: 1 for cached positions that are no padding, of shape (rows, cached positions).
            dtype: the dtype of a mask over pairs of positions.
            pad_id: the id to pad token ids with.

        Returns:
            ``input_ids`` and ``position_ids`` of shape (rows, length), and ``attention_mask`` of shape (rows, 1,
            length, cached positions + length), or (rows, cached positions + length) for single candidates.
        """
        device = cached.device
        ids = pad_sequences(self.ids, pad_id).to(device)
        positions = {"position_ids": pad_sequences(self.positions, 0).to(device)}
        if all(min(ends) == len(ends) for ends in self.ends):  # rows with a single candidate
            mask = torch.cat([cached, attention_mask(self.ids).to(device)], 1)
            return {"input_ids": ids, "attention_mask": mask, **(positions if cached.shape[1] else {})}
        return {"input_ids": ids, "attention_mask": self._attention_bias(cached, dtype), **positions}

    def _attention_bias(self, cached: Tensor, dtype: torch.dtype) -> Tensor:
        """Build an additive attention mask: tokens attend to the cache, to their ancestors and to themselves.

        Args:
            cached: 1 for cached positions that are no padding, of shape (rows, cached positions).
            dtype: the mask's dtype.

        Returns:
            A tensor of shape (rows, 1, length, cached positions + length).
        """
        device = cached.device
        ends = pad_sequences(self.ends, 0).to(device)
        column = torch.arange(ends.shape[1], device=device)
        hidden = (column[None, None, :] > column[None, :, None]) | (column[None, :, None] >= ends[:, None, :])
        if cached.shape[1]:
            hidden = torch.cat([(cached == 0)[:, None, :].expand(-1, ends.shape[1], -1), hidden], 2)
        bias = torch.zeros(hidden.shape, dtype=dtype, device=device)
        return bias.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]
