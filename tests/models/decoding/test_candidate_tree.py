"""The tree of a row's candidates."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from peftkit.models.decoding.candidate_tree import CandidateTree, PackedTexts, candidate_chains, candidate_tree

CANDIDATES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=6)


def read_by(tree: CandidateTree, node: int) -> list[int]:
    """The tokens that a node attends to, with its own."""
    return [tree.tokens[i] for i in range(node + 1) if node < tree.ends[i]]


@given(CANDIDATES)
def test_every_token_is_predicted_from_its_prefix(candidates: list[list[int]]) -> None:
    tree = candidate_tree(candidates)
    predictions = sorted(tree.predictions)
    assert [(p.candidate, p.position, p.token) for p in predictions] == [
        (c, i, token) for c, ids in enumerate(candidates) for i, token in enumerate(ids)
    ]
    for p in predictions:
        prefix = candidates[p.candidate][: p.position]
        assert (read_by(tree, p.node) if p.node >= 0 else []) == prefix
        assert not prefix or tree.depths[p.node] == len(prefix) - 1
    assert len(tree.tokens) == len({tuple(ids[:n]) for ids in candidates for n in range(1, len(ids))})


@given(CANDIDATES)
def test_chains_start_anew_for_each_candidate(candidates: list[list[int]]) -> None:
    chains = candidate_chains(candidates, 9)
    assert len(chains.tokens) == sum(map(len, candidates))
    for p in chains.predictions:
        assert read_by(chains, p.node) == [9, *candidates[p.candidate][: p.position]]
        assert chains.depths[p.node] == p.position


def test_tokens_attend_to_the_cache_their_ancestors_and_themselves() -> None:
    trees = [candidate_tree([[3, 1], [4, 5, 1]]), candidate_tree([[6, 1]])]
    packed = PackedTexts.build([[7, 8], [7]], [2, 2], trees)
    inputs = packed.inputs(torch.tensor([[1, 1], [0, 1]]), torch.float32, 0)
    assert inputs["input_ids"].tolist() == [[7, 8, 3, 4, 5], [7, 6, 0, 0, 0]]
    assert inputs["position_ids"].tolist() == [[2, 3, 4, 4, 5], [2, 3, 0, 0, 0]]
    visible = (inputs["attention_mask"][:, 0] == 0).long().tolist()
    assert visible[0] == [
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 1, 0],
        [1, 1, 1, 1, 0, 1, 1],
    ]
    assert visible[1][:2] == [[0, 1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0]]


def test_single_candidates_need_no_mask_over_pairs() -> None:
    packed = PackedTexts.build([[7, 8], [7]], [0, 0], [candidate_tree([[3, 1]]), candidate_tree([[1]])])
    inputs = packed.inputs(torch.ones(2, 0), torch.float32, 0)
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert "position_ids" not in inputs
