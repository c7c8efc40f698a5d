"""Steps of a number of tokens: their rows, the same for every epoch's shapes and every number of processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.data.token_batches import TokenBatchSampler, step_sizes
from peftkit.errors import RunError

LENGTHS = [(7 * i) % 40 + 1 for i in range(400)]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200), st.integers(50, 400), st.integers(0, 3))
def test_every_row_is_in_one_step_of_the_epoch_and_no_step_exceeds_its_tokens(
    lengths: list[int], tokens: int, epoch: int
) -> None:
    sampler = TokenBatchSampler(lengths, tokens, seed=1)
    shapes = sorted((max(lengths[i] for i in step), len(step)) for step in sampler.steps())
    sampler.set_epoch(epoch)
    steps = sampler.steps()
    assert sorted(i for step in steps for i in step) == [*range(len(lengths))]
    assert all(len(step) * max(lengths[i] for i in step) <= tokens for step in steps)
    assert sorted((max(lengths[i] for i in step), len(step)) for step in steps) == shapes
    assert len(sampler) == len(steps)


def test_epochs_and_seeds_differ_and_a_resumed_epoch_goes_on() -> None:
    sampler = TokenBatchSampler(LENGTHS, 100, seed=1)
    first = sampler.steps()
    assert first == sampler.steps() != TokenBatchSampler(LENGTHS, 100, seed=2).steps()
    sampler.start = 5
    assert sampler.steps() == first[5:]
    sampler.set_epoch(1)
    sampler.start = 0
    assert {frozenset(step) for step in sampler.steps()} != {frozenset(step) for step in first}
    longest = [max(LENGTHS[i] for i in step) for step in first]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


@pytest.mark.parametrize(("processes", "microbatches"), [(1, 1), (1, 3), (2, 1), (3, 2)])
def test_processes_and_microbatches_divide_the_same_steps(processes: int, microbatches: int) -> None:
    steps = TokenBatchSampler(LENGTHS, 400, seed=1).steps()
    shards = [
        [*TokenBatchSampler(LENGTHS, 400, seed=1, microbatches=microbatches, processes=processes, rank=rank)]
        for rank in range(processes)
    ]
    for number, step in enumerate(steps):
        parts = [part for shard in shards for part in shard[number * microbatches : (number + 1) * microbatches]]
        assert sorted(i for part in parts for i in part) == sorted(step)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_last_steps_share_their_rows() -> None:
    assert step_sizes([10] * 21, 100) == [10, 6, 5]
    assert step_sizes([10] * 10 + [1] * 90, 100) == [10, 90]


def test_steps_that_cannot_be_made_are_errors() -> None:
    with pytest.raises(RunError, match=r"longest training row has 40 tokens, more than train.tokens_per_batch = 39"):
        TokenBatchSampler(LENGTHS, 39, seed=1)
    with pytest.raises(RunError, match="has 2 rows, fewer than its 4 microbatches"):
        TokenBatchSampler(LENGTHS, 80, seed=1, microbatches=2, processes=2)
