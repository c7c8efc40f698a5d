"""How recipes fit into memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from peftkit.analysis.cost_estimate import estimate_cost
from peftkit.analysis.memory_fit import MemoryFit, plan_memory
from peftkit.api.recipes import resolve_recipe
from peftkit.argument_names import command_line
from peftkit.models.checkpoints.quantization import quantized_weights
from peftkit.models.load_base_model import init_random_base
from peftkit.plugins import Registry
from peftkit.recipe import Recipe
from tests.tiny_runs import Make

GIB = 2**30


def plan(recipe: Recipe, registry: Registry, limit: float) -> MemoryFit:
    return plan_memory(lambda overrides: resolve_recipe(recipe, overrides), registry, limit)


@pytest.fixture
def recipe(make: Make, monkeypatch: pytest.MonkeyPatch, registry: Registry) -> Recipe:
    monkeypatch.setattr("peftkit.recipe.build_recipe.load_registry", lambda: registry)
    return make("decoder", "method.name=lora", "train.batch_size=8", "train.budget.steps=2")


def test_setups_have_the_memory_of_their_recipes_and_the_same_rows(recipe: Recipe, registry: Registry) -> None:
    fit = plan(recipe, registry, GIB)
    assert fit.advice.startswith("fits as written: ")
    assert fit.remedy == fit.as_written == fit.setups[0]
    assert [(each.quantization, each.gradient_checkpointing) for each in fit.setups] == [
        *((None, False), (None, True), ("4bit", False), ("4bit", True))
    ]
    memory = {(each.quantization, each.gradient_checkpointing): each.memory_bytes for each in fit.setups}
    assert memory[None, True] < memory[None, False]
    assert memory["4bit", False] < memory[None, False]

    limit = memory[None, False] - 1
    smaller = plan(recipe, registry, limit)
    assert (smaller.as_written.memory_bytes, smaller.fits(smaller.as_written)) == (limit + 1, False)
    first = smaller.setups[0]
    assert first == smaller.remedy
    assert first.batch_size == 4  # the largest divisor of 8 that fits
    assert first.overrides == ("train.batch_size=4", "train.gradient_accumulation_steps=2")
    assert all(each.batch_size * each.gradient_accumulation_steps == 8 for each in smaller.setups if each.batch_size)
    changed = resolve_recipe(recipe, first.overrides)
    assert estimate_cost(changed, registry).memory_bytes == first.memory_bytes <= limit
    assert 'use: overrides=["train.batch_size=4", "train.gradient_accumulation_steps=2"]' in repr(smaller)
    with command_line():
        assert "use: --set train.batch_size=4 --set train.gradient_accumulation_steps=2" in repr(smaller)


def test_what_does_not_fit_has_no_remedy(recipe: Recipe, registry: Registry) -> None:
    fit = plan(recipe, registry, 1000)
    assert fit.remedy is None
    assert fit.advice.startswith("nothing fits: ")
    assert {each.batch_size for each in fit.setups} == {1}
    assert not any(map(fit.fits, fit.setups))


def test_setups_that_a_method_does_not_allow_have_the_reason(recipe: Recipe, registry: Registry) -> None:
    full = resolve_recipe(recipe, ["method={name='full'}"])
    fit = plan(full, registry, GIB)
    assert [each.quantization for each in fit.setups] == [None, None]
    assert all("4-bit weights" in reason for reason in fit.impossible.values())
    assert len(fit.impossible) == 2
    assert "not with model.quantization" in repr(fit)


def test_steps_of_tokens_are_divided(recipe: Recipe, registry: Registry) -> None:
    by_tokens = resolve_recipe(recipe, ["train.tokens_per_batch=64"])
    written = plan(by_tokens, registry, GIB).as_written
    fit = plan(by_tokens, registry, written.memory_bytes - 1)
    assert written.batch_size is None
    assert fit.setups[0].gradient_accumulation_steps > 1
    assert "by tokens" in repr(fit)


def test_four_bit_weights_take_what_bitsandbytes_stores(
    recipe: Recipe, registry: Registry, tmp_path: Path, models: dict[str, Path]
) -> None:
    """The embeddings and the head are not quantized, and are trained in float32."""
    quantized = resolve_recipe(recipe, ['model.quantization="4bit"', "method.target_modules=['q_proj']"])
    size = estimate_cost(quantized, registry).weight_bytes
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(models["decoder"]))
    matrices = [p.numel() for name, p in model.named_parameters() if "_proj" in name]
    others = sum(p.numel() for name, p in model.named_parameters() if "_proj" not in name)
    stored = sum(matrices) * (1 / 2 + 1 / 64 + 4 / (64 * 256)) + 4 * others
    trained = estimate_cost(quantized, registry).trainable_parameters
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    assert size == pytest.approx(stored + 4 * trained + buffers + 2 * max(matrices), abs=1)
    base = init_random_base(quantized, "meta").model.requires_grad_(False)
    assert sum(weight.numel() for weight in quantized_weights(quantized, base)) == sum(matrices)
    assert dataclasses.asdict(plan(quantized, registry, GIB))["setups"][0]["quantization"] == "4bit"
