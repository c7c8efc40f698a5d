"""Lily, whose router mixes the rows of a batch: refused unless the recipe accepts that."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftkit.errors import RecipeError
from peftkit.models.load_base_model import apply_method, init_random_base
from peftkit.plugins import Registry
from peftkit.train.run import run
from tests.tiny_runs import ONE_EVALUATION, Make

UNSAFE = 'method={name="lily", unsafe_batch_mixing=true, stride_A=1, num_B=2}'


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder", "encoder"])
def test_it_is_refused_because_a_rows_scores_change_with_its_neighbours(kind: str, make: Make) -> None:
    with pytest.raises(RecipeError, match="predictions depend on the other rows and on the answer"):
        make(kind, 'method={name="lily", stride_A=1, num_B=2}')
    recipe = make(kind, UNSAFE)
    torch.manual_seed(0)
    model: Any = apply_method(recipe, init_random_base(recipe, "cpu"), 10).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    row = torch.full((1, 6), 9)
    rows = torch.cat([row, torch.arange(20, 26)[None]])

    def logits(ids: torch.Tensor) -> torch.Tensor:
        decoded = {"decoder_input_ids": ids[:, :3]} if kind == "encoder-decoder" else {}
        with torch.no_grad():
            first: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **decoded).logits[0]
        return first

    assert (logits(row) - logits(rows)).abs().max() > 1e-3
    assert torch.equal(logits(row), logits(row)), "it depends on the neighbours, not on chance"


def test_a_run_that_accepts_it_trains(make: Make, registry: Registry) -> None:
    assert run(make("encoder-decoder", UNSAFE, *ONE_EVALUATION, "train.budget.steps=3"), registry) is not None
