"""Order and composition of the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from peftkit.data.length_buckets import LengthBucketSampler


@given(st.lists(st.integers(1, 50), max_size=300), st.integers(1, 16), st.integers(0, 3))
def test_each_epoch_has_every_row_once_except_the_last_partial_batch(
    lengths: list[int], batch: int, epoch: int
) -> None:
    sampler = LengthBucketSampler(lengths, batch, seed=1)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(order) == len(sampler) == len(lengths) // batch * batch
    assert len(set(order)) == len(order)


def test_batches_have_similar_lengths_and_epochs_differ() -> None:
    lengths = [(7 * i) % 40 + 1 for i in range(400)]
    sampler = LengthBucketSampler(lengths, 8, seed=1)
    first = list(sampler)
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)
    spread = [max(b) - min(b) for b in batches_of([lengths[i] for i in first], 8)]
    unsorted = [max(b) - min(b) for b in batches_of(lengths, 8)]
    assert sum(spread) < sum(unsorted) / 4
    means = [sum(b) for b in batches_of([lengths[i] for i in first], 8)]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_the_order_depends_on_the_seed() -> None:
    assert list(LengthBucketSampler([1] * 64, 8, seed=1)) != list(LengthBucketSampler([1] * 64, 8, seed=2))


def batches_of(values: list[int], size: int) -> Iterator[list[int]]:
    return (values[i : i + size] for i in range(0, len(values), size))
