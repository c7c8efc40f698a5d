"""Properties of all methods of the peft library."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft.utils.constants as tables
import pytest
import torch
from safetensors.torch import load_file

from peftkit import RunSpec
from peftkit.errors import InputError
from peftkit.methods.lora import Lora
from peftkit.methods.peft_base import PeftMethod, default_targets
from peftkit.methods.prefix_tuning import PrefixTuning
from peftkit.methods.vera import Vera
from peftkit.testing import apply_method, context, logits, run_spec, tiny_model, train_on_batch

SAVED = {"lora": Lora(), "vera": Vera(r=16), "prefix": PrefixTuning(num_virtual_tokens=5, prefix_projection=True)}


@pytest.mark.parametrize("peft_type", ["LORA", "VERA"])
def test_models_with_default_targets_are_read_from_pefts_source(peft_type: str) -> None:
    targets_by_model = getattr(tables, f"TRANSFORMERS_MODELS_TO_{peft_type}_TARGET_MODULES_MAPPING")
    assert default_targets(peft_type) == set(targets_by_model)


def test_a_type_without_default_targets_has_none() -> None:
    assert default_targets("PREFIX_TUNING") == frozenset()


@pytest.mark.parametrize("method", [Lora(), Vera()], ids=["lora", "vera"])
def test_a_model_without_default_targets_is_rejected(method: PeftMethod) -> None:
    (reason,) = method.incompatible_with(run_spec("distilbert"))
    assert "'distilbert'" in reason
    assert 'target_modules = "all-linear"' in reason
    with pytest.raises(InputError, match="target_modules"):
        apply_method(method, "distilbert")
    assert method.model_copy(update={"target_modules": "all-linear"}).incompatible_with(run_spec("distilbert")) == []


@pytest.mark.parametrize("method", SAVED.values(), ids=SAVED)
def test_a_hub_model_without_its_config_is_not_rejected(method: PeftMethod) -> None:
    assert method.incompatible_with(RunSpec(None, "generation", False, "no")) == []


def test_unknown_target_modules_are_an_input_error() -> None:
    with pytest.raises(InputError, match=r"method\.target_modules: no module is called 'no_such_layer'"):
        apply_method(Lora(target_modules=("no_such_layer",)), "t5")


@pytest.mark.slow
@pytest.mark.one_line
def test_saved_methods_load_in_another_process(tmp_path: Path) -> None:
    tiny_model("t5").save_pretrained(tmp_path / "base")
    ids = torch.arange(3, 11).repeat(2, 1)
    outputs = {}
    for name, method in SAVED.items():
        model = apply_method(method, "t5")
        train_on_batch(model, "t5", steps=2)
        (tmp_path / name).mkdir()
        method.save(model, tmp_path / name)
        with torch.no_grad():
            outputs[name] = model.eval()(input_ids=ids, decoder_input_ids=ids).logits
    code = f"""
import sys, torch
from pathlib import Path
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForSeq2SeqLM
root, ids, outputs = Path(sys.argv[1]), torch.arange(3, 11).repeat(2, 1), {{}}
for name in {list(SAVED)}:
    model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(root / "base"), root / name).eval()
    with torch.no_grad():
        outputs[name] = model(input_ids=ids, decoder_input_ids=ids).logits
save_file(outputs, root / "outputs.safetensors")
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    torch.testing.assert_close(load_file(tmp_path / "outputs.safetensors"), outputs, atol=1e-6, rtol=0)


def test_saving_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", connect)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    base = tiny_model("t5")
    base.name_or_path = "google-t5/t5-base"
    Lora().save(Lora().apply(base, context("t5")), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize(
    "method",
    [Lora(target_modules="all-linear", exclude_modules=("k_proj", "o_proj")), Vera(target_modules="all-linear")],
)
def test_configurations_are_saved_in_one_order(method: PeftMethod, tmp_path: Path) -> None:
    model: Any = apply_method(method, "llama")
    method.save(model, tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    sets = {key: value for key, value in vars(model.active_peft_config).items() if isinstance(value, set)}
    assert len(sets["target_modules"]) > 4
    assert {key: saved[key] for key in sets} == {key: sorted(value) for key, value in sets.items()}
    assert list(saved) == sorted(saved)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (SAVED["lora"], {"target_modules": ("o",)}),
        (SAVED["lora"], {"r": 4}),
        (SAVED["vera"], {"target_modules": ("o",)}),
        (SAVED["prefix"], {"num_virtual_tokens": 4}),
        (SAVED["prefix"], {"encoder_hidden_size": 7}),
    ],
)
def test_weights_of_other_options_are_rejected(method: PeftMethod, changes: dict[str, object], tmp_path: Path) -> None:
    method.save(apply_method(method, "t5"), tmp_path)
    other = method.model_copy(update=changes)
    with pytest.raises((ValueError, RuntimeError), match=r"do not match the model|size mismatch|must match"):
        other.load(apply_method(other, "t5"), tmp_path)


def test_a_projected_prefix_loads_without_its_projection(tmp_path: Path) -> None:
    model = apply_method(SAVED["prefix"], "t5")
    SAVED["prefix"].save(model, tmp_path)
    plain = SAVED["prefix"].model_copy(update={"prefix_projection": False})
    other = apply_method(plain, "t5")
    plain.load(other, tmp_path)
    torch.testing.assert_close(logits(other, "t5"), logits(model, "t5"), atol=1e-6, rtol=0)


def test_half_precision_models_train_float32_parameters(tmp_path: Path) -> None:
    model = Lora().apply(tiny_model("llama").to(torch.bfloat16), context("llama"))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    losses, _ = train_on_batch(model, "llama", steps=4)
    assert losses[-1] < losses[0]
