"""Layers below the lowest trained one are neither recomputed nor differentiated."""

from __future__ import annotations

import pytest
import torch

from peftkit.components import ModelKind
from peftkit.models.load_base_model import apply_method, load_base
from tests.tiny_runs import Make

KINDS: tuple[ModelKind, ...] = ("encoder-decoder", "decoder", "encoder")


@pytest.mark.parametrize("kind", KINDS)
def test_no_embedding_requires_a_gradient(kind: ModelKind, make: Make) -> None:
    method = 'method={name="lora", r=2, layers_to_transform=[1]}'
    gradients = []
    for checkpointing in ("false", "true"):
        recipe = make(kind, method, f"train.gradient_checkpointing={checkpointing}")
        base = load_base(recipe)
        model = apply_method(recipe, base, None).train()
        outputs: list[torch.Tensor] = []
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.register_forward_hook(lambda *arguments, kept=outputs: kept.append(arguments[-1]))
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        ids = torch.tensor([[5, 6, 7, 8]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        labels = {"labels": ids} if kind != "encoder" else {"labels": torch.tensor([1])}
        torch.manual_seed(0)
        model(**inputs, **labels).loss.backward()
        assert outputs
        assert not any(output.requires_grad for output in outputs)
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert gradients[0]
    torch.testing.assert_close(gradients[0], gradients[1])
