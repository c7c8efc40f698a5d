from __future__ import annotations

import re

import pytest
import torch

from peftkit.errors import InputError
from peftkit.plugins import load_registry
from peftkit.testing import (
    apply_method,
    check_published_rates,
    conformance,
    logits,
    tiny_model,
    trained_tensors,
)
from peftkit.testing.tiny_models import head_parameters
from peftkit_lora_xs import LoraXs

VARIANTS = (LoraXs(r=4), LoraXs(r=4, target_modules="all-linear"))
ARCHITECTURES = ("t5", "bart", "llama", "qwen2", "gpt2", "bert", "albert", "deberta-v2", "modernbert")
AT_NIGHT = ("roberta", "distilbert", "electra")
"""More encoders, which run the same code of the kit. ALBERT is the one that has no gradient checkpointing."""
TestLoraXs = pytest.mark.slow(conformance(*VARIANTS, architectures=ARCHITECTURES, runs=False))
TestAtNight = pytest.mark.exhaustive(pytest.mark.slow(conformance(*VARIANTS, architectures=AT_NIGHT, runs=False)))
TestRuns = pytest.mark.slow(conformance(LoraXs(r=4), architectures=("t5", "bert")))


def test_lora_xs_is_registered() -> None:
    entry = load_registry().all("method")["lora_xs"]
    assert (entry.component, entry.distribution) == (LoraXs, "peftkit-lora-xs")


def test_published_rates_are_those_of_the_paper() -> None:
    assert {rate for published in LoraXs.published_rates for rate in published.rates} == {1e-4, 5e-4, 1e-3, 2e-3, 4e-3}
    check_published_rates(LoraXs)


@pytest.mark.parametrize(("architecture", "layers"), [("t5", 2 * 2 * 3), ("llama", 4), ("gpt2", 2), ("bert", 4)])
def test_only_r_by_r_matrices_are_trained(architecture: str, layers: int) -> None:
    head = head_parameters(architecture)
    names = {
        name: p for name, p in trained_tensors(apply_method(LoraXs(r=4), architecture)).items() if name not in head
    }
    assert {p.shape for p in names.values()} == {(4, 4)}
    assert len(names) == layers


def test_the_initial_update_is_close_to_zero() -> None:
    torch.testing.assert_close(
        logits(apply_method(LoraXs(r=4), "t5"), "t5"), logits(tiny_model("t5"), "t5"), atol=1e-3, rtol=0
    )


def test_the_update_is_that_of_the_paper() -> None:
    model = apply_method(LoraXs(r=3, alpha=6.0, target_modules=("q_proj",)), "llama")
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    left, values, right = torch.linalg.svd(tiny_model("llama").get_submodule("model.layers.0.self_attn.q_proj").weight)
    with torch.no_grad():
        layer.xs_matrix.copy_(torch.arange(9.0).reshape(3, 3))
    expected = 2.0 * left[:, :3] @ values[:3].diag() @ layer.xs_matrix @ right[:3]
    before = layer.layer.weight.clone()
    torch.testing.assert_close(layer.merged().weight - before, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_modules": ("no_such",)}, r"no module is called 'no_such'; available: .*q_proj"),
        ({"target_modules": ("q_proj", "embed_tokens")}, "'embed_tokens' is not a linear layer"),
        ({"r": 33}, "method.r = 33, but .* has only 32 singular directions"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        apply_method(LoraXs.model_validate(options), "llama")


def test_target_modules_may_be_an_expression() -> None:
    model = apply_method(LoraXs(r=2, target_modules=r".*layers\.1\..*_proj"), "llama")
    assert trained_tensors(model)
    assert all(re.search(r"layers\.1\.", name) for name in trained_tensors(model))
