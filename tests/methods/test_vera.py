from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from peftkit.methods.vera import Vera
from peftkit.testing import apply_method, check_method, trained_tensors


def reopen(model: nn.Module, folder: Path) -> nn.Module:
    return PeftModel.from_pretrained(model, folder)


def projection(method: Vera, seed: int) -> torch.Tensor:
    return apply_method(method, "t5", seed).base_model.vera_A["default"]


def test_projections_depend_on_the_seed() -> None:
    assert torch.equal(projection(Vera(r=4), 1), projection(Vera(r=4), 1))
    assert not torch.equal(projection(Vera(r=4), 1), projection(Vera(r=4), 2))


def test_projection_prng_key_replaces_the_seed() -> None:
    method = Vera(r=4, projection_prng_key=0)
    assert torch.equal(projection(method, 1), projection(method, 2))
    assert not torch.equal(projection(method, 1), projection(Vera(r=4), 1))


def test_only_vectors_are_trained() -> None:
    vectors = trained_tensors(apply_method(Vera(), "t5"))
    assert {parameter.shape for parameter in vectors.values()} == {(256,), (32,)}
    assert all("vera_lambda_" in name for name in vectors)


@pytest.mark.parametrize(
    "options",
    [
        {"save_projection": False},
        {"target_modules": "all-linear"},  # layers of different shapes use slices of one projection
        {"target_modules": ("q_proj",), "layers_to_transform": (0,), "d_initial": 0.5},
        {"modules_to_save": ("model.norm",)},
    ],
    ids=str,
)
def test_every_variant_trains_and_is_saved(options: dict[str, object], tmp_path: Path) -> None:
    check_method(Vera.model_validate({"r": 16} | options), "llama", tmp_path / "saved", reopen)


@pytest.mark.parametrize("bias", ["all", "vera_only"])
def test_biases_are_trained_and_saved(bias: str, tmp_path: Path) -> None:
    method = Vera(r=16, bias=bias)  # type: ignore[arg-type]
    assert any(name.endswith("query.base_layer.bias") for name in trained_tensors(apply_method(method, "bert")))
    check_method(method, "bert", tmp_path / "saved", reopen)


@pytest.mark.parametrize("kept", [True, False])
def test_save_projection_sets_whether_projections_are_saved(kept: bool, tmp_path: Path) -> None:
    method = Vera(r=4, save_projection=kept)
    method.save(apply_method(method, "t5"), tmp_path)
    assert ("base_model.vera_A" in load_file(tmp_path / "adapter_model.safetensors")) == kept
