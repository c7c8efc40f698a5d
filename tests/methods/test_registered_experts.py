"""LoRA on models with a mixture of experts, whose weights transformers 5 fuses into one parameter for all experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from peft import PeftModel
from torch import nn

from peftkit.errors import InputError
from peftkit.macs.mac_counter import MacCounter
from peftkit.plugins import load_registry
from peftkit.testing import METHOD_CHECKS, apply_method, batch, check_method, run_spec, trained_tensors
from peftkit.testing.tiny_models import tiny_model
from peftkit.testing.tiny_training import loss_of

Lora: Any = load_registry("").all("method")["lora"].component
MODELS = ("mixtral", "qwen2_moe", "qwen3_moe")
FUSED = int(transformers.__version__.split(".")[0]) >= 5
EXPERTS: dict[str, Any] = {
    "target_modules": (),
    "target_parameters": ("experts.gate_up_proj", "experts.down_proj"),
}
"""What updates the experts, whose layers are modules of their own before transformers 5."""
SEPARATE: dict[str, Any] = {"target_modules": r".*\.experts\.\d+\.(w\d|\w+_proj)"}
TOKENS, CHOSEN, ALL, WIDTH, RANK, LAYERS = 32, 2, 4, 32, 8, 2


def reopen(model: nn.Module, folder: Path) -> nn.Module:
    return PeftModel.from_pretrained(model, folder)


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("check", [name for name in METHOD_CHECKS if name != "new_head"])
def test_updates_of_experts_pass_every_check(architecture: str, check: str, tmp_path: Path) -> None:
    method = Lora(**(EXPERTS if FUSED else SEPARATE))
    options = {"reopen": reopen} if check == "reloads" else {}
    METHOD_CHECKS[check](method, architecture, tmp_path / "saved", **options)  # type: ignore[call-arg]


@pytest.mark.parametrize("options", [{}, {"target_modules": "all-linear"}], ids=str)
def test_updates_of_other_layers(options: dict[str, Any], tmp_path: Path) -> None:
    check_method(Lora(**options), "mixtral", tmp_path / "saved", reopen)


def test_models_without_default_modules_need_parameters_or_modules() -> None:
    assert "no default target_modules" in Lora().incompatible_with(run_spec("qwen3_moe"))[0]
    assert Lora(target_parameters=("experts.down_proj",)).incompatible_with(run_spec("qwen3_moe")) == []


@pytest.mark.skipif(not FUSED, reason="experts are modules before transformers 5")
@pytest.mark.parametrize("architecture", MODELS)
def test_each_expert_has_an_update_of_the_rank(architecture: str) -> None:
    model = apply_method(Lora(r=3, **EXPERTS), architecture)
    names = trained_tensors(model)
    assert len(names) == LAYERS * 2 * 2
    assert all(3 * ALL in tensor.shape for tensor in names.values())


@pytest.mark.skipif(not FUSED, reason="experts are modules before transformers 5")
@pytest.mark.parametrize("option", ["use_lorafa", "riemannian_reg"])
def test_variants_of_linear_layers_are_refused(option: str) -> None:
    with pytest.raises(InputError, match=f"{option}: works on linear layers only, and 'model.layers.0.mlp.gate'"):
        apply_method(Lora(target_modules="all-linear", **{option: 1}), "mixtral")


def macs(architecture: str, **options: Any) -> tuple[int, int]:
    method = Lora(**options)
    counter = MacCounter(
        apply_method(method, architecture), lambda model, rows: loss_of(method, model, architecture, 1, rows)
    )
    return counter.count(batch(architecture))[:2]


@pytest.mark.parametrize("architecture", MODELS)
def test_only_the_experts_of_a_token_are_counted(architecture: str) -> None:
    """Adding an expert per token adds its products for each token, and adding one that no token takes adds none."""
    config: Any = tiny_model(architecture).config
    inner = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    options = {"target_modules": ("q_proj",)}
    method = Lora(**options)

    def count(**changes: int) -> tuple[int, int]:
        model = apply_method(method, architecture, **changes)
        counter = MacCounter(model, lambda model, rows: loss_of(method, model, architecture, 1, rows))
        return counter.count(batch(architecture))[:2]

    expert = LAYERS * TOKENS * 3 * WIDTH * inner
    two, three = count(num_experts_per_tok=2), count(num_experts_per_tok=3)
    assert three[0] - two[0] == expert
    assert three[1] - two[1] == expert  # gradients of inputs, and none of frozen weights
    key = "num_local_experts" if architecture == "mixtral" else "num_experts"
    router = LAYERS * TOKENS * WIDTH
    more = count(**{key: ALL + 1})
    assert more[0] - two[0] == router


@pytest.mark.skipif(not FUSED, reason="experts are modules before transformers 5")
@pytest.mark.parametrize("architecture", MODELS)
def test_updates_of_fused_experts_are_products_for_all_of_them(architecture: str) -> None:
    """peft adds the update to all experts in each pass, and torch computes it once more to check its shape."""
    config: Any = tiny_model(architecture).config
    inner = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    down = {"target_modules": (), "target_parameters": ("experts.down_proj",)}
    both = {"target_modules": (), "target_parameters": ("experts.down_proj", "experts.gate_up_proj")}
    once = LAYERS * ALL * 2 * inner * RANK * WIDTH
    assert macs(architecture, **both)[0] - macs(architecture, **down)[0] == 2 * once


@pytest.mark.skipif(not FUSED, reason="the implementation of experts is fixed before transformers 5")
@pytest.mark.parametrize("implementation", ["eager", "batched_mm"])
def test_every_implementation_of_experts_counts_the_same(implementation: str) -> None:
    method = Lora(target_modules=("q_proj",))
    counts = []
    for name in ("grouped_mm", implementation):
        wrapped = apply_method(method, "mixtral", experts_implementation=name)
        counter = MacCounter(wrapped, lambda model, rows: loss_of(method, model, "mixtral", 1, rows))
        counts.append(counter.count(batch("mixtral"))[:2])
    assert counts[0] == counts[1]
