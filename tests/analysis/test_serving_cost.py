"""The cost of serving, held to the operations of a request that is really made."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftkit.analysis.serving_cost import estimate_serving
from peftkit.macs.eager_attention import eager_attention
from peftkit.macs.flop_counter import OpCounter
from peftkit.models.load_base_model import apply_method, init_random_base
from tests.tiny_runs import Make

PROMPT, NEW = 7, 5
METHODS = {
    "lora": '{name="lora"}',
    "prefix_tuning": '{name="prefix_tuning", num_virtual_tokens=3}',
    "prompt_tuning": '{name="prompt_tuning", num_virtual_tokens=3}',
    "full": '{name="full"}',
}


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("method", METHODS)
def test_a_request_costs_what_generation_computes(kind: str, method: str, make: Make) -> None:
    recipe = make(kind, f"method={METHODS[method]}")
    cost = estimate_serving(recipe, PROMPT, NEW)
    base = init_random_base(recipe, "cpu")
    model: Any = apply_method(recipe, base, 10).eval()
    ids = torch.full((1, PROMPT), 7)
    options: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    with torch.no_grad(), eager_attention(model), OpCounter() as counter:
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    assert cost.unmerged.gmacs == pytest.approx(counter.forward_flops / 2e9)
    assert (cost.merged is None) == method.startswith("pr")
    assert bool(cost.why_not_merged) == (cost.merged is None)


def test_merging_removes_the_costs_of_a_method(make: Make) -> None:
    base = estimate_serving(make("decoder", "method.name=full"), PROMPT, NEW).unmerged
    lora = estimate_serving(make("decoder", "method.name=lora"), PROMPT, NEW)
    assert lora.merged == base
    assert lora.unmerged.gmacs > base.gmacs
    assert lora.unmerged.weight_bytes > base.weight_bytes
    assert lora.unmerged.cache_bytes == base.cache_bytes == 2 * 2 * 4 * 32 * (PROMPT + NEW - 1)
    assert "to the first token" in repr(lora)


def test_an_encoder_reads_a_text_and_generates_nothing(make: Make) -> None:
    cost = estimate_serving(make("encoder", "method.name=lora"), PROMPT, NEW)
    assert (cost.new_tokens, cost.unmerged.gmacs_per_token, cost.unmerged.cache_bytes) == (0, 0.0, 0)
    assert cost.unmerged.gmacs == cost.unmerged.first_token_gmacs > 0
