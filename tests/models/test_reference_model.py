"""Stored log-likelihoods of a base model are found by the tokens of a text, whatever row or batch has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from peftkit.models.reference_model import (
    REFERENCE,
    StoredReference,
    batches_of_texts,
    evaluation_mode,
    split_texts,
)

ROWS: list[Any] = [
    {"source": [1, 2], "candidates": [[3], [4, 5]]},
    {"source": [1], "candidates": [[2, 3], [4]]},
    {"source": [1, 2], "candidates": [[4, 5], [3]]},
]


def test_a_text_is_a_source_and_its_target() -> None:
    keys = [key for key, _ in split_texts(ROWS)]
    assert keys[:2] == keys[:3:-1]  # the same texts in another order
    assert len({*keys}) == 4  # [1, 2] → [3] is not [1] → [2, 3]


def test_batches_have_each_text_once_and_do_not_depend_on_the_order_of_rows() -> None:
    batches = [*batches_of_texts(ROWS, 3)]
    assert [len(keys) for keys, _ in batches] == [3, 1]
    assert batches == [*batches_of_texts(ROWS[::-1], 3)]
    lengths = [len(text["source"]) + len(text["candidates"][0]) for _, texts in batches for text in texts]
    assert lengths == sorted(lengths)


def test_values_are_looked_up_and_missing_ones_are_computed_once() -> None:
    asked: list[int] = []

    def compute(rows: Any) -> dict[bytes, float]:
        asked.append(len(rows))
        return {key: -float(len(text["candidates"][0])) for key, text in split_texts(rows)}

    reference = StoredReference({}, torch.float64, compute)
    for _ in range(2):
        values = reference.collate(ROWS)[REFERENCE]
        assert (values.tolist(), values.dtype) == ([-1.0, -2.0, -2.0, -1.0, -2.0, -1.0], torch.float64)
    assert len(asked) == 1
    with pytest.raises(KeyError):
        StoredReference({}).collate(ROWS)


def test_dropout_and_gradients_are_off_and_the_mode_is_restored() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    with evaluation_mode(model):
        assert not model[1].training
        assert not model(torch.ones(1, 4)).requires_grad
    assert model[1].training
