"""Order and composition of batches, of stored and streaming data."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from datasets import Dataset, IterableDataset

from peftkit import Example
from peftkit.data.dataloader import StreamingRows, first_batches, shortest_and_longest_batch
from peftkit.models import BoundObjective
from peftkit.testing.tiny_models import tiny_model
from peftkit.testing.tokenizers import tokenizer
from tests.data.test_length_buckets import batches_of
from tests.tiny_runs import Colours, Make, bind_objective


def _stream(objective: BoundObjective, rows: int, batch: int, seed: int = 1) -> StreamingRows:
    task = Colours(rows=rows, streaming=True)
    train: Any = task.load()["train"]
    assert isinstance(train, IterableDataset)
    return StreamingRows(train, objective.with_task(task), batch, seed)


def test_a_stream_has_every_row_once_except_the_last_partial_batch(objective: BoundObjective) -> None:
    stream = _stream(objective, 53, 8)
    sources = [tuple(row["source"]) for row in stream]
    assert len(sources) == 48
    expected = Counter(
        tuple(objective.family.tokenizer(f"(colour) {r['thing']}")["input_ids"])
        for r in Colours(rows=53).load()["train"]
    )
    assert not Counter(sources) - expected


def test_batches_of_a_stream_have_similar_lengths_and_seeds_differ(objective: BoundObjective) -> None:
    stream = _stream(objective, 400, 8)
    first = [row["source"] for row in stream]
    assert first == [row["source"] for row in stream]
    stream.set_epoch(1)
    assert first != [row["source"] for row in stream]
    assert first != [row["source"] for row in _stream(objective, 400, 8, seed=2)]
    lengths = list(map(len, first))
    assert sum(max(b) - min(b) for b in batches_of(lengths, 8)) < len(lengths) / 8
    assert lengths != sorted(lengths)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_shortest_and_longest_batch_have_the_extreme_lengths(size: int, objective: BoundObjective, make: Make) -> None:
    recipe = make("encoder-decoder", f"train.batch_size={size}")
    tokens = [(20, 9), (30, 30), (3, 4), (61, 2), (17, 12)]
    kept = [
        {"source": [5] * s, "candidates": [[6] * t], "answer": 0, "source_tokens": s, "target_tokens": t}
        for s, t in tokens
    ]
    rows = Dataset.from_list([{**row, "length": s + t} for row, (s, t) in zip(kept, tokens, strict=True)])
    shortest, longest = shortest_and_longest_batch(recipe, rows, objective)
    assert shortest["input_ids"].shape == shortest["attention_mask"].shape == (size, 3)
    assert shortest["labels"].shape == shortest["decoder_input_ids"].shape == (size, 4)
    assert longest["input_ids"].shape == longest["attention_mask"].shape == (size, 61)
    assert longest["labels"].shape == longest["decoder_input_ids"].shape == (size, 30)
    assert {*shortest} == {*longest} == {*objective.collate(kept[:1])}


def test_a_stream_has_no_shortest_and_longest_batch(objective: BoundObjective, make: Make) -> None:
    assert shortest_and_longest_batch(make("encoder-decoder"), _stream(objective, 53, 8), objective) == []


@pytest.mark.parametrize(("architecture", "numbered"), [("bert", True), ("roberta", False), ("distilbert", False)])
def test_first_batches_have_token_types_if_the_model_uses_them(architecture: str, numbered: bool, make: Make) -> None:
    model = tiny_model(architecture, vocab_size=400, **({"type_vocab_size": 1} if architecture == "roberta" else {}))
    objective = bind_objective("encoder", tokenizer("wordpiece", "cls+sep"), model.config)
    rows = objective.tokenize([Example("the robin", "a bird", ("a bird", "a stone"))] * 4, training=True)
    [batch] = first_batches(make("encoder"), Dataset.from_list([*map(dict, rows)]), objective, model, 4, 1)
    assert ("token_type_ids" in batch) is numbered
    if numbered:
        assert batch["token_type_ids"].shape == batch["input_ids"].shape
        assert batch["token_type_ids"].sum() > 0
    model(**{key: value for key, value in batch.items() if key != "labels"})
