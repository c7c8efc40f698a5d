"""Activations that are moved away between the passes; on a CPU, through a fake of the copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from peftkit.errors import RecipeError, RunError
from peftkit.plugins import Registry
from peftkit.train.run import run
from peftkit.train.steps import activation_offloading
from peftkit.train.steps.activation_offloading import ActivationOffloading
from tests.tiny_runs import Make


class Copies:
    """In place of torch's copies to the host: clones, and a record of them."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.packed: list[Tensor] = []
        instances.append(self)

    def pack_hook(self, tensor: Tensor) -> tuple[str, Tensor]:
        self.packed.append(tensor)
        return "host", tensor.clone()

    def unpack_hook(self, packed: tuple[str, Tensor]) -> Tensor:
        return packed[1]


instances: list[Copies] = []


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_same_and_weights_stay(checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_offloading, "save_on_cpu", Copies)
    instances.clear()
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.GELU()) for _ in range(3))
    layers[0].requires_grad_(False)
    inputs = torch.randn(16, 32)

    def gradients() -> list[Tensor]:
        hidden = inputs
        for layer in layers:
            hidden = checkpoint(layer, hidden, use_reentrant=False) if checkpointing else layer(hidden)
        hidden.square().sum().backward()
        gradients_now = [p.grad.clone() for p in layers.parameters() if p.grad is not None]
        layers.zero_grad()
        return gradients_now

    expected = gradients()
    with ActivationOffloading(layers, "cpu"):
        assert all(torch.equal(a, b) for a, b in zip(gradients(), expected, strict=True))
    [copies] = instances
    assert copies.options == {"pin_memory": False, "device_type": "cpu"}
    weights = {p.untyped_storage().data_ptr() for p in layers.parameters()}
    assert copies.packed
    assert not weights & {tensor.untyped_storage().data_ptr() for tensor in copies.packed}
    assert all(tensor.nbytes >= activation_offloading.MIN_BYTES for tensor in copies.packed)


def test_on_a_gpu_copies_are_pinned_and_tensors_of_the_host_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation_offloading, "save_on_cpu", Copies)
    instances.clear()
    weight = torch.ones(64, 64, requires_grad=True)
    with ActivationOffloading(nn.Linear(1, 1)):
        (weight * torch.ones(64, 64)).sum().backward()
    assert instances[0].options == {"pin_memory": True, "device_type": "cuda"}
    assert not instances[0].packed


def test_without_a_gpu_a_run_is_an_error(make: Make, registry: Registry) -> None:
    with pytest.raises(RunError, match=r"train\.activation_offloading needs a GPU"):
        run(make("decoder", "train.activation_offloading=true"), registry)


def test_compiled_layers_are_rejected(make: Make) -> None:
    with pytest.raises(RecipeError, match=r"train\.activation_offloading: compiled layers decide what they save"):
        make("decoder", "train.activation_offloading=true", "train.compile=true")


def test_sharded_weights_are_rejected(make: Make) -> None:
    with pytest.raises(RecipeError, match=r"train\.activation_offloading: would move the weights"):
        make("decoder", "train.activation_offloading=true", "train.fsdp=true")
