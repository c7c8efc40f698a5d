"""Methods that change representations (ReFT)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftkit.plugins import load_registry
from peftkit.testing import apply_method, batch, context, trained_tensors
from peftkit.testing.tiny_models import tiny_model
from peftkit_adapters import ADAPTER


def method(name: str, **changes: Any) -> Any:
    """A method with options that suit the tiny models."""
    component: Any = load_registry().all("method")[name].component
    return component.model_validate({**component.tiny_options, **changes})


def test_weight_decay_leaves_the_axes_of_loreft_orthogonal() -> None:
    component, rows = method("loreft", r=4), batch("t5")
    model = apply_method(component, "t5")
    optimizer = torch.optim.AdamW(trained_tensors(model).values(), lr=0.01, weight_decay=0.1)
    axes = model.get_submodule(f"encoder.block.0.reft_layer.refts.{ADAPTER}.units.0.projection")
    for step in (1, 2):
        model(**rows).loss.backward()
        optimizer.step()
        if step == 1:
            assert axes.weight.abs().sum() == 0  # without the correction
        component.after_step(model, step)
        optimizer.zero_grad()
    torch.testing.assert_close(axes.weight @ axes.weight.T, torch.eye(4))


def test_only_existing_positions_are_trained() -> None:
    assert not any(".units.1." in name for name in trained_tensors(apply_method(method("loreft"), "bert")))
    both = trained_tensors(apply_method(method("loreft", suffix_positions=2), "bert"))
    assert any(".units.0." in name for name in both)
    assert any(".units.1." in name for name in both)


@pytest.mark.parametrize("name", ["loreft", "noreft", "direft"])
@pytest.mark.parametrize("architecture", ["t5", "bert", "gpt2"])
def test_reft_computes_in_the_models_precision(name: str, architecture: str) -> None:
    model = method(name).apply(tiny_model(architecture), context(architecture)).to(torch.float64)
    output = model(**batch(architecture))
    assert output.logits.dtype == torch.float64
    output.loss.backward()


def test_loreft_takes_targets_shorter_than_its_positions() -> None:
    rows = batch("t5")
    model = apply_method(method("loreft"), "t5")
    model(**{**rows, "labels": rows["labels"][:, :2].contiguous()}).loss.backward()
    assert all(p.grad is not None for p in trained_tensors(model).values())
