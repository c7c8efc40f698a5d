"""Variants of LoRA that change gradients, store less, or quantize: against peft's own optimizers and by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch import Tensor, nn

from peftkit.errors import InputError
from peftkit.macs.mac_counter import MacCounter
from peftkit.plugins import load_registry
from peftkit.testing import (
    apply_method,
    batch,
    check_method,
    context,
    logits,
    run_spec,
    trained_tensors,
)
from peftkit.testing.run_checks import check_resume
from peftkit.testing.tiny_models import tiny_model
from peftkit.testing.tiny_training import loss_of

Lora: Any = load_registry("").all("method")["lora"].component
TARGETS = ("q_proj", "v_proj")


def reopen(model: nn.Module, folder: Path) -> nn.Module:
    return PeftModel.from_pretrained(model, folder)


BD_LORA = {
    "target_modules": TARGETS,
    "use_bdlora": {"target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["v_proj"]},
}


@pytest.mark.parametrize(
    "options",
    [
        {"use_lorafa": True},
        {"riemannian_reg": 1e-2},
        {"velora_config": {"num_groups": 8}},
        {"velora_config": {"num_groups": 5, "init_type": "batch_average_once"}},
        {"velora_config": {"init_type": "random"}},
        {**BD_LORA, "use_bdlora": {**BD_LORA["use_bdlora"], "nblocks": 2}},  # type: ignore[dict-item]
    ],
    ids=str,
)
def test_every_variant_trains_and_is_saved(options: dict[str, Any], tmp_path: Path) -> None:
    check_method(Lora.model_validate(options), "llama", tmp_path / "saved", reopen)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_lorafa": True, "use_dora": True}, "use_lorafa does not work with use_dora"),
        ({"use_lorafa": True, "velora_config": {}}, "use_lorafa does not work with velora_config"),
        ({"use_lorafa": True, "riemannian_reg": 0.1}, "use_lorafa does not work with riemannian_reg"),
        ({"use_lorafa": True, "loraplus_lr_ratio": 2.0}, "use_lorafa does not work with loraplus_lr_ratio"),
        (
            {"riemannian_reg": 0.1, "init_lora_weights": "mica"},
            'riemannian_reg does not work with init_lora_weights = "',
        ),
        ({"riemannian_reg": 0.0}, "greater than 0"),
        ({"use_dora": True, "velora_config": {}}, "are two variants, which peft cannot mix"),
        ({"monteclora_config": {}, "kasa_config": {}}, "are two variants, which peft cannot mix"),
        ({"loftq_config": {}}, 'loftq_config needs init_lora_weights = "loftq"'),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 2}}, "4 or 8"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_rejected(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Lora.model_validate(options)


@pytest.mark.parametrize("options", [{"use_lorafa": True}, {"riemannian_reg": 1e-2}], ids=str)
def test_updates_of_embeddings_have_no_gradients_to_change(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"works on linear layers only, and 'model\.embed_tokens' is none"):
        apply_method(Lora(target_modules=("q_proj", "embed_tokens"), **options), "llama")


def steps(
    method: Any, make: Callable[[nn.Module], torch.optim.Optimizer], hook: bool, clip: float = 0.05
) -> dict[str, Tensor]:
    """The trained tensors after four steps on gradients that are clipped."""
    model = apply_method(method, "llama")
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # B starts at zero, where it preconditions nothing
            if ".lora_B." in name:
                parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).reshape(parameter.shape))
    optimizer = make(model)
    trained = trained_tensors(model)
    for step in range(1, 5):
        loss_of(method, model, "llama", step).backward()
        assert float(torch.nn.utils.clip_grad_norm_(trained.values(), clip)) > clip
        if hook:
            method.before_step(model, step)
        optimizer.step()
        optimizer.zero_grad()
    return trained


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(trained_tensors(model).values(), lr=1e-2, weight_decay=0.0, eps=1e-12)


def test_lorafa_trains_as_the_optimizer_of_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peft.optimizers.lorafa.is_bf16_available", lambda: False)

    def lorafa(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = peft.optimizers.create_lorafa_optimizer(model, r=4, lora_alpha=12, lr=1e-2)  # type: ignore[arg-type]
        optimizer.param_groups[0]["eps"] = 1e-12  # which it adds elsewhere
        return optimizer

    by_peft = steps(Lora(r=4, lora_alpha=12), lorafa, hook=False)
    by_peftkit = steps(Lora(r=4, lora_alpha=12, use_lorafa=True), adamw, hook=True)
    assert by_peftkit.keys() == by_peft.keys() - {name for name in by_peft if ".lora_A." in name}
    torch.testing.assert_close(by_peftkit, {name: by_peft[name] for name in by_peftkit}, atol=2e-6, rtol=1e-4)


def test_riemannian_preconditioning_trains_as_the_optimizer_of_peft() -> None:
    def riemannian(model: nn.Module) -> torch.optim.Optimizer:
        options = {"lr": 1e-2, "weight_decay": 0.0, "eps": 1e-12}
        create: Any = peft.optimizers.create_riemannian_optimizer
        optimizer: torch.optim.Optimizer = create(model, torch.optim.AdamW, reg=1e-2, **options)
        return optimizer

    by_peft = steps(Lora(r=4, lora_alpha=12), riemannian, hook=False)
    by_peftkit = steps(Lora(r=4, lora_alpha=12, riemannian_reg=1e-2), adamw, hook=True)
    torch.testing.assert_close(by_peftkit, by_peft, atol=2e-6, rtol=1e-4)


def test_only_runs_that_change_gradients_need_whole_ones() -> None:
    from dataclasses import replace

    sharded = replace(run_spec("llama"), sharded=True)
    for options in ({"use_lorafa": True}, {"riemannian_reg": 0.1}):
        assert Lora(**options).reads_gradients
        assert "train without DeepSpeed and FSDP" in Lora(**options).incompatible_with(sharded)[0]
    assert not Lora().reads_gradients
    assert Lora().incompatible_with(sharded) == []


# ---- counts and memory


def count(method: Any) -> tuple[MacCounter, int, int]:
    counter = MacCounter(apply_method(method, "llama"), lambda model, rows: loss_of(method, model, "llama", 1, rows))
    forward, backward, _ = counter.count(batch("llama"))
    return counter, forward, backward


def test_lorafa_saves_the_gradient_of_the_first_matrix_and_its_inputs() -> None:
    lora, forward, backward = count(Lora(target_modules=TARGETS))
    frozen, frozen_forward, frozen_backward = count(Lora(target_modules=TARGETS, use_lorafa=True))
    tokens, layers = batch("llama")["input_ids"].numel(), 4
    assert frozen_forward == forward
    gradients = layers * tokens * 32 * 8
    first_layer = tokens * (32 + 16) * 8  # through B, which no trained weight before it needs there
    assert backward - frozen_backward == gradients + first_layer
    assert frozen.step_bytes([batch("llama")]) < lora.step_bytes([batch("llama")])


def test_velora_counts_its_projection_and_stores_less() -> None:
    lora, forward, backward = count(Lora(target_modules=TARGETS))
    velora, more, same = count(Lora(target_modules=TARGETS, velora_config={"num_groups": 4}))
    tokens, layers = batch("llama")["input_ids"].numel(), 4
    assert more - forward == layers * tokens * 32  # one number for each group of a token
    assert same == backward
    long = {key: value.repeat(1, 8) for key, value in batch("llama").items()}
    assert velora.step_bytes([long]) < lora.step_bytes([long])


# ---- VeLoRA's state


def test_velora_and_monteclora_depend_on_the_microbatch() -> None:
    assert "mean activations" in Lora(velora_config={}).microbatch_dependence
    assert "sampled" in Lora(monteclora_config={}).microbatch_dependence
    assert Lora().microbatch_dependence == ""


def test_the_projections_of_the_first_batch_are_restored() -> None:
    method = Lora(velora_config={"num_groups": 8, "init_type": "batch_average_once"})
    model, fresh = apply_method(method, "llama"), apply_method(method, "llama")
    assert method.state_dict(fresh) == {}
    loss_of(method, model.train(), "llama", 1).backward()
    state = {name: value.clone() for name, value in method.state_dict(model).items()}
    assert len(state) == 4
    assert all(torch.linalg.vector_norm(value).item() == pytest.approx(1) for value in state.values())
    method.load_state_dict(fresh, state)
    rows = {**batch("llama"), "input_ids": batch("llama")["input_ids"].flip(0)}
    loss_of(method, fresh.train(), "llama", 1, rows).backward()
    torch.testing.assert_close(method.state_dict(fresh), state, atol=0, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"use_lorafa": True}, {"velora_config": {"num_groups": 8, "init_type": "batch_average_once"}}],
    ids=str,
)
def test_runs_resume_exactly(options: dict[str, Any], tmp_path: Path) -> None:
    check_resume(Lora(**options), "llama", tmp_path)


# ---- LoftQ


class _Rounded:
    """A tensor rounded to levels of its largest number, as bitsandbytes keeps it."""

    def __init__(self, data: Tensor, levels: int) -> None:
        self.scale = data.abs().max() / levels
        self.SCB = self.quant_state = self.scale
        self.data = (data / self.scale).round()

    def to(self, device: object) -> _Rounded:
        return self


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """peft's LoftQ, which names the GPU and bitsandbytes, on a CPU with a plain rounding."""
    modules = SimpleNamespace(
        Params4bit=lambda data, **options: _Rounded(data, 7), Int8Params=lambda data, **options: _Rounded(data, 127)
    )
    functions = dict.fromkeys(("dequantize_4bit", "int8_vectorwise_dequant"), lambda data, scale: data * scale)
    monkeypatch.setitem(
        sys.modules, "bitsandbytes", SimpleNamespace(nn=modules, functional=SimpleNamespace(**functions))
    )
    for name in ("is_bnb_available", "is_bnb_4bit_available"):
        monkeypatch.setattr(f"peft.utils.loftq_utils.{name}", lambda: True)
    monkeypatch.setattr("peftkit.methods.lora.loftq_problem", lambda: "")
    convert = Tensor.to

    def to(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        args = tuple("cpu" if each == "cuda" else each for each in args)
        return convert(tensor, *args, **{k: "cpu" if v == "cuda" else v for k, v in options.items()})

    monkeypatch.setattr(Tensor, "to", to)


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize(("bits", "iterations"), [(4, 1), (4, 5), (8, 1)])
def test_loftq_starts_from_rounded_weights_and_the_closest_update(bits: int, iterations: int) -> None:
    method = Lora(init_lora_weights="loftq", loftq_config={"loftq_bits": bits, "loftq_iter": iterations})
    model, base = apply_method(method, "llama"), tiny_model("llama")
    name = "model.layers.0.self_attn.q_proj"
    layer: Any = model.get_submodule(f"base_model.model.{name}")
    rounded, weight = layer.base_layer.weight, base.get_submodule(name).weight
    start = rounded + layer.get_delta_weight("default")
    assert len(rounded.unique()) <= 2**bits
    assert (weight - start).norm() < 0.9 * (weight - rounded).norm()
    assert not method.can_disable_adapter
    assert not layer.base_layer.weight.requires_grad
    assert [n for n in trained_tensors(model) if ".lora_" not in n] == []


@pytest.mark.usefixtures("pretended_gpu")
def test_more_iterations_of_loftq_are_closer() -> None:
    weight = tiny_model("llama").get_submodule("model.layers.0.self_attn.q_proj").weight
    errors = []
    for iterations in (1, 5):
        method = Lora(init_lora_weights="loftq", loftq_config={"loftq_iter": iterations})
        layer: Any = apply_method(method, "llama").get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
        errors.append((weight - layer.base_layer.weight - layer.get_delta_weight("default")).norm().item())
    assert errors[1] < errors[0]


@pytest.mark.usefixtures("pretended_gpu")
def test_loftq_trains_and_is_saved(tmp_path: Path) -> None:
    check_method(Lora(init_lora_weights="loftq"), "llama", tmp_path / "saved", reopen)


def test_loftq_needs_a_gpu() -> None:
    method = Lora(init_lora_weights="loftq")
    [problem] = method.find_option_problems("decoder")
    assert problem.option == "init_lora_weights"
    assert problem.is_error
    assert "on a GPU only, and there is none" in problem.text
    with pytest.raises(InputError, match=r'method\.init_lora_weights: "loftq": peft quantizes weights for it on a GPU'):
        apply_method(method, "llama")
    with torch.device("meta"):  # costs are estimated without one
        shapes = tiny_model("llama").to("meta")
    assert (
        trained_tensors(method.apply(shapes, context("llama"))).keys()
        == trained_tensors(apply_method(Lora(), "llama")).keys()
    )


def test_loftq_quantizes_itself() -> None:
    from dataclasses import replace

    spec = replace(run_spec("llama"), quantization="4bit")
    assert "quantizes the weights itself" in Lora(init_lora_weights="loftq").incompatible_with(spec)[0]
    assert "transposed" in Lora(init_lora_weights="loftq").incompatible_with(run_spec("gpt2"))[0]


def test_evaluation_ignores_compression() -> None:
    plain, compressed = Lora(), Lora(velora_config={"num_groups": 2})
    torch.testing.assert_close(
        logits(apply_method(compressed, "llama"), "llama"),
        logits(apply_method(plain, "llama"), "llama"),
        atol=0,
        rtol=0,
    )
