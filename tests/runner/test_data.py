"""Batches: their order, their make-up, and that encoding is done once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer

from peftkit.recipe.names import model_path
from peftkit.runner.data import LengthBucketSampler, encoded, fingerprint
from peftkit.runner.forms import EncoderDecoder
from tests.runner.conftest import Colours


@given(st.lists(st.integers(1, 50), max_size=300), st.integers(1, 16), st.integers(0, 3))
def test_each_epoch_takes_every_row_once_but_for_the_rest(lengths: list[int], batch: int, epoch: int) -> None:
    sampler = LengthBucketSampler(lengths, batch, seed=1)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(order) == len(sampler) == len(lengths) // batch * batch
    assert len(set(order)) == len(order)


def test_batches_hold_like_lengths_and_epochs_differ() -> None:
    lengths = [(7 * i) % 40 + 1 for i in range(400)]
    sampler = LengthBucketSampler(lengths, 8, seed=1)
    first = list(sampler)
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)
    spread = [max(b) - min(b) for b in _batches([lengths[i] for i in first], 8)]
    unsorted = [max(b) - min(b) for b in _batches(lengths, 8)]
    assert sum(spread) < sum(unsorted) / 4
    means = [sum(b) for b in _batches([lengths[i] for i in first], 8)]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_the_seed_decides_the_order() -> None:
    assert list(LengthBucketSampler([1] * 64, 8, seed=1)) != list(LengthBucketSampler([1] * 64, 8, seed=2))


def _batches(values: list[int], size: int) -> Iterator[list[int]]:
    return (values[i : i + size] for i in range(0, len(values), size))


@pytest.fixture
def form() -> EncoderDecoder:
    path = model_path("pocket-t5")
    return EncoderDecoder(
        AutoTokenizer.from_pretrained(path), AutoConfig.from_pretrained(path), "classification", 64, 16
    )


def test_the_same_rows_are_encoded_once(form: EncoderDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path))
    task = Colours()
    first = encoded(task, task.load()["train"], form)
    with mock.patch.object(Colours, "encode", side_effect=AssertionError("encoded again")):
        again = encoded(task, task.load()["train"], form)
    assert first.to_list() == again.to_list()
    assert first[0]["source"] == form.tokenizer("colour: blood")["input_ids"]


def test_the_key_follows_the_content(form: EncoderDecoder) -> None:
    task = Colours()
    rows = task.load()["train"]
    key = fingerprint(task, rows, form)
    assert key == fingerprint(Colours(), Colours().load()["train"], form)
    changed = rows.to_list()
    changed[3]["thing"] = "moss"
    assert key != fingerprint(task, Dataset.from_list(changed), form)
    assert key != fingerprint(task, rows.select(range(10)), form)
    assert key != fingerprint(Colours(rows=12), rows, form)
    shorter = EncoderDecoder(form.tokenizer, form.config, "classification", 32, 16)
    assert key != fingerprint(task, rows, shorter)
