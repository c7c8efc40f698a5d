"""Every registered method on models of all three kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import PeftModel
from torch import nn

from peftkit import Method
from peftkit.methods.full import Full
from peftkit.methods.lora import Lora
from peftkit.methods.vera import Vera
from peftkit.plugins import load_registry
from peftkit.testing import (
    CHECKS,
    RefusedError,
    applied,
    check_method,
    round_trip,
    situation,
    tiny,
    trained,
)
from peftkit.testing.checks import reloads

METHODS = {name: entry.component for name, entry in load_registry().of("method").items()}


def made(name: str) -> Method:
    """The method with options that suit a model of width 32."""
    component = METHODS[name]
    assert issubclass(component, Method)
    return component.model_validate(dict(component.trial))


def reopen(model: nn.Module, folder: Path) -> nn.Module:
    """What each library's documentation says."""
    if (folder / "adapter_config.json").exists():
        return PeftModel.from_pretrained(model, folder)
    return type(model).from_pretrained(folder)


@pytest.mark.parametrize("name", METHODS)
def test_its_options_are_kept(name: str) -> None:
    round_trip(made(name))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize("name", METHODS)
def test_it_does_what_it_says_or_says_why_not(name: str, architecture: str, check: str, tmp_path: Path) -> None:
    reason = ""
    try:
        CHECKS[check](made(name), architecture, tmp_path / "saved")
    except RefusedError as refused:
        reason = str(refused)
    assert reason == "" or len(reason.split()) > 4


@pytest.mark.parametrize("name", METHODS)
def test_layers_that_hold_their_weights_transposed_are_known_or_refused(name: str, tmp_path: Path) -> None:
    try:
        check_method(made(name), "gpt2", tmp_path / "saved")
    except AssertionError:
        assert made(name).refuses(situation("gpt2"))


@pytest.mark.parametrize("name", ["full", "lora", "vera", "prefix_tuning", "adalora", "ia3", "p_tuning", "boft"])
@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_its_own_library_opens_what_was_saved(name: str, architecture: str, tmp_path: Path) -> None:
    reloads(made(name), architecture, tmp_path / "saved", reopen)


@pytest.mark.parametrize("architecture", ["roberta", "deberta-v2", "distilbert"])
@pytest.mark.parametrize("method", [Lora(target_modules="all-linear"), Vera(r=16, target_modules="all-linear")])
def test_an_encoders_whole_head_is_trained_and_saved(method: Method, architecture: str, tmp_path: Path) -> None:
    backbone = tiny(architecture).base_model_prefix
    head = {name for name, _ in tiny(architecture).named_parameters() if not name.startswith(f"{backbone}.")}
    assert head
    names = {name.replace("modules_to_save.default.", "") for name in trained(applied(method, architecture))}
    assert {f"base_model.model.{name}" for name in head} <= names
    check_method(method, architecture, tmp_path / "saved", reopen)


def test_full_fine_tuning_refuses_nothing() -> None:
    for architecture in ("t5", "llama", "bert", "gpt2"):
        assert Full().refuses(situation(architecture, gradient_checkpointing=True)) == []
