"""Every built-in method on every kind of model."""

from __future__ import annotations

from pathlib import Path

import pytest
from method_properties import applied, check_checkpointing, check_generation, check_method, learn, tiny, trained
from torch import nn

from peftkit import Method
from peftkit.methods import Full, Lora, PrefixTuning, Vera, register_methods

METHODS = {
    "full": Full(),
    "lora": Lora(),
    "vera": Vera(r=16),
    "prefix_tuning": PrefixTuning(num_virtual_tokens=5),
    "prefix_tuning projected": PrefixTuning(num_virtual_tokens=5, prefix_projection=True),
}


def reopen(model: nn.Module, folder: Path) -> nn.Module:
    """What each library's documentation says."""
    from peft import PeftModel

    if (folder / "adapter_config.json").exists():
        return PeftModel.from_pretrained(model, folder)
    return type(model).from_pretrained(folder)


def test_no_method_is_left_out() -> None:
    assert {method.name for method in METHODS.values()} == {m.model_fields["name"].default for m in register_methods()}


@pytest.mark.parametrize("architecture", ["t5", "bart", "llama", "gpt2", "bert"])
@pytest.mark.parametrize("name", METHODS)
def test_it_learns_and_what_it_learnt_can_be_saved(name: str, architecture: str, tmp_path: Path) -> None:
    check_method(METHODS[name], architecture, tmp_path / "saved", reopen)


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize("name", ["full", "lora", "vera"])
def test_gradient_checkpointing_changes_nothing(name: str, architecture: str) -> None:
    check_checkpointing(METHODS[name], architecture)


@pytest.mark.parametrize("architecture", ["t5", "bart", "llama", "gpt2"])
@pytest.mark.parametrize("name", ["lora", "vera"])
def test_it_generates_what_it_scores_highest(name: str, architecture: str) -> None:
    model = applied(METHODS[name], architecture)
    learn(model, architecture, steps=2)
    check_generation(model, architecture)


@pytest.mark.parametrize("architecture", ["roberta", "deberta-v2", "distilbert"])
@pytest.mark.parametrize("method", [Lora(target_modules="all-linear"), Vera(r=16, target_modules="all-linear")])
def test_an_encoders_whole_head_is_trained_and_saved(method: Method, architecture: str, tmp_path: Path) -> None:
    backbone = tiny(architecture).base_model_prefix
    head = {name for name, _ in tiny(architecture).named_parameters() if not name.startswith(f"{backbone}.")}
    assert head
    names = {name.replace("modules_to_save.default.", "") for name in trained(applied(method, architecture))}
    assert {f"base_model.model.{name}" for name in head} <= names
    check_method(method, architecture, tmp_path / "saved", reopen)
