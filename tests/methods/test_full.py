from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peftkit.methods.full import Full
from peftkit.testing import apply_method, logits, tiny_model, train_on_batch


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_every_weight_is_trained(architecture: str) -> None:
    model = apply_method(Full(), architecture)
    assert all(parameter.requires_grad for parameter in model.parameters())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train_on_batch(model, architecture, steps=2)
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []


def test_shards_are_loaded_and_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = apply_method(Full(), "gpt2")
    train_on_batch(model, "gpt2", steps=2)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    fresh = apply_method(Full(), "gpt2")
    Full().load(fresh, tmp_path)
    assert torch.equal(logits(fresh, "gpt2"), logits(model, "gpt2"))
    assert fresh.lm_head.weight is fresh.transformer.wte.weight


def test_other_dtypes_are_saved_and_loaded_unchanged(tmp_path: Path) -> None:
    model = Full().apply(tiny_model("llama").to(torch.bfloat16), None)  # type: ignore[arg-type]
    Full().save(model, tmp_path)
    fresh = tiny_model("llama").to(torch.bfloat16)
    torch.nn.init.zeros_(fresh.lm_head.weight)
    Full().load(fresh, tmp_path)
    assert fresh.dtype == torch.bfloat16
    assert torch.equal(fresh.lm_head.weight, model.lm_head.weight)


def test_weights_of_another_model_are_rejected(tmp_path: Path) -> None:
    Full().save(tiny_model("llama"), tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Full().load(tiny_model("llama", hidden_size=16), tmp_path)
