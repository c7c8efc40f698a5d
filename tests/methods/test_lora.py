from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch import nn

from peftkit import ApplyContext, Method
from peftkit.errors import InputError
from peftkit.plugins import load_registry
from peftkit.testing import (
    apply_method,
    batch,
    check_method,
    context,
    logits,
    run_spec,
    train_on_batch,
    trained_tensors,
)
from peftkit.testing.tiny_models import tiny_model

# The registered class, with all of peft's options.
Lora: Any = load_registry().all("method")["lora"].component


def reopen(model: nn.Module, folder: Path) -> nn.Module:
    return PeftModel.from_pretrained(model, folder)


def test_the_defaults_train_q_and_v() -> None:
    model = apply_method(Lora(), "t5")
    names = trained_tensors(model)
    # q and v of the encoder, the decoder and its cross-attention: two blocks, two sides each.
    assert len(names) == 2 * 2 * (2 + 2 + 2)
    assert {parameter.shape for parameter in names.values()} == {(8, 32), (32, 8)}
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in names} == {"q", "v"}
    layer = model.get_submodule("base_model.model.encoder.block.0.layer.0.SelfAttention.q")
    assert layer.scaling == {"default": 1.0}


def test_alpha_and_dropout_are_aliases() -> None:
    method = Lora.model_validate_json('{"r": 4, "alpha": 16, "dropout": 0.1}', strict=True)
    assert (method.r, method.lora_alpha, method.lora_dropout) == (4, 16, 0.1)
    assert method == Lora.model_validate_json('{"r": 4, "lora_alpha": 16, "lora_dropout": 0.1}', strict=True)
    with pytest.raises(ValidationError, match="alpha"):
        Lora.model_validate_json('{"alpha": 16, "lora_alpha": 8}', strict=True)


@pytest.mark.parametrize("value", ["lora_ga", "corda", "pissa_niter_4", "no_such"])
def test_initial_weights_that_cannot_be_reloaded_are_rejected(value: str) -> None:
    with pytest.raises(ValidationError, match="init_lora_weights"):
        Lora(init_lora_weights=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"r": 0}, "greater than 0"),
        ({"lora_dropout": 1.0}, "less than 1"),
        ({"r": 7, "init_lora_weights": "orthogonal"}, "even rank"),
        ({"rank_pattern": {"q": 3}, "init_lora_weights": "orthogonal"}, "even rank"),
        ({"use_dora": True, "init_lora_weights": "mica"}, "use one of them"),
        ({"target_modules": "all-linear", "layers_to_transform": (1,)}, "list of target_modules"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Lora.model_validate(options)


@pytest.mark.parametrize(
    "options",
    [
        {"init_lora_weights": False},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "mica"},
        {"loraplus_lr_ratio": 16.0},
        {"kasa_config": {}},
        {"monteclora_config": {}},
        {"use_dora": True},
        {"use_dora": True, "init_lora_weights": "pissa"},
        {"use_rslora": True, "lora_alpha": 16},
        {"target_modules": r".*\.mlp\.(up|down)_proj"},
        {"target_modules": ("q_proj", "embed_tokens")},
        {"target_modules": "all-linear", "exclude_modules": ("o_proj",)},
        {"layers_to_transform": (1,)},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 4}},
        {"modules_to_save": ("model.norm",)},
    ],
    ids=str,
)
def test_every_variant_trains_and_is_saved(options: dict[str, object], tmp_path: Path) -> None:
    check_method(Lora.model_validate(options), "llama", tmp_path / "saved", reopen)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_are_trained_and_saved(bias: str, tmp_path: Path) -> None:
    method = Lora(bias=bias)  # type: ignore[arg-type]
    assert any(name.endswith("query.base_layer.bias") for name in trained_tensors(apply_method(method, "bert")))
    check_method(method, "bert", tmp_path / "saved", reopen)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"init_lora_weights": "pissa"}], ids=str)
def test_variants_on_transposed_layers(options: dict[str, object], tmp_path: Path) -> None:
    check_method(Lora.model_validate(options), "gpt2", tmp_path / "saved", reopen)


def test_olora_on_transposed_layers_is_incompatible_and_fails() -> None:
    method = Lora(init_lora_weights="olora")
    assert "GPT-2" in method.incompatible_with(run_spec("gpt2"))[0]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        logits(apply_method(method, "gpt2"), "gpt2")


def test_rank_stabilized_scaling() -> None:
    model = apply_method(Lora(r=4, lora_alpha=8, use_rslora=True), "llama")
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    assert layer.scaling["default"] == pytest.approx(8 / math.sqrt(4))


@pytest.mark.parametrize("start", ["olora", "pissa", "mica", "gaussian", True])
def test_the_initial_update_is_zero(start: str | bool) -> None:
    model = apply_method(Lora(init_lora_weights=start), "llama")  # type: ignore[arg-type]
    torch.testing.assert_close(logits(model, "llama"), logits(tiny_model("llama"), "llama"), atol=1e-5, rtol=0)


def test_dropout_is_active_in_training_only() -> None:
    model = apply_method(Lora(lora_dropout=0.5), "llama")
    train_on_batch(model, "llama", steps=2)
    assert torch.equal(logits(model, "llama"), logits(model, "llama"))
    losses = {train_on_batch(model, "llama", steps=1)[0][0] for _ in range(2)}
    assert len(losses) == 2


# ---- EVA, LoRA+ and auxiliary losses


def with_rows(architecture: str) -> ApplyContext:
    rows = batch(architecture)
    if architecture == "t5":
        rows["decoder_input_ids"] = rows["labels"].roll(1, 1)
    return replace(context(architecture), batches=lambda number: [dict(rows)] * min(4, number))


@pytest.mark.parametrize("architecture", ["t5", "bart", "llama", "bert"])
def test_eva_starts_with_directions_of_the_layers_inputs(architecture: str, tmp_path: Path) -> None:
    method = Lora(init_lora_weights="eva", r=2, eva_config={"rho": 1.5})
    torch.manual_seed(7)
    model = method.apply(tiny_model(architecture), with_rows(architecture))
    plain = apply_method(Lora(r=2), architecture)
    sides = {n: p for n, p in trained_tensors(model).items() if ".lora_A." in n}
    for side in sides.values():  # EVA's directions are orthogonal, random ones are not
        torch.testing.assert_close(side @ side.T, torch.eye(len(side)), atol=1e-4, rtol=0)
    assert sum(len(side) for side in sides.values()) == 2 * sum(".lora_A." in n for n in trained_tensors(plain))
    torch.testing.assert_close(logits(model, architecture), logits(plain, architecture), atol=1e-5, rtol=0)
    losses, silent = train_on_batch(model, architecture)
    assert losses[-1] < losses[0]
    assert silent == []
    method.save(model, tmp_path)
    again = method.apply(tiny_model(architecture), with_rows(architecture))
    method.load(again, tmp_path)
    torch.testing.assert_close(logits(again, architecture), logits(model, architecture), atol=1e-6, rtol=0)
    opened = method.load_into(tiny_model(architecture), tmp_path, context(architecture))
    torch.testing.assert_close(logits(opened, architecture), logits(model, architecture), atol=1e-6, rtol=0)


def test_eva_without_training_rows_is_an_error() -> None:
    with pytest.raises(InputError, match="needs training data, and there is none"):
        apply_method(Lora(init_lora_weights="eva"), "llama")


def test_eva_that_does_not_converge_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftkit.methods.lora.MAX_EVA_PASSES", 20)
    rows: Mapping[str, torch.Tensor] = {k: v[:1, :1] for k, v in batch("llama").items()}
    one = replace(context("llama"), batches=lambda number: [rows])
    with pytest.raises(InputError, match=r"has not converged after 20 forward passes; lower method\.r"):
        Lora(init_lora_weights="eva").apply(tiny_model("llama"), one)


def test_loraplus_multiplies_the_learning_rate_of_b() -> None:
    method: Method = Lora(loraplus_lr_ratio=16.0)
    rates = {
        name.split(".lora_")[1][0]: method.lr_multiplier(name)
        for name in trained_tensors(apply_method(method, "llama"))
    }
    assert rates == {"A": 1.0, "B": 16.0}
    assert Lora().lr_multiplier("x.lora_B.default.weight") == 1.0


@pytest.mark.parametrize("part", ["kasa_config", "monteclora_config"])
def test_kasa_and_monteclora_have_auxiliary_losses(part: str) -> None:
    method: Method = Lora(**{part: {}})
    model = apply_method(method, "llama")
    rows = batch("llama")
    model.train()(input_ids=rows["input_ids"])
    penalty = method.auxiliary_loss(model, rows)
    assert penalty is not None
    assert penalty.requires_grad
    assert float(penalty) != 0
    assert Lora().auxiliary_loss(apply_method(Lora(), "llama"), rows) is None
