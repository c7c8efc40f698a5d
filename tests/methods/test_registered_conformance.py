"""Every registered method on models of all three kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification

from peftkit import Method
from peftkit.methods.full import Full
from peftkit.plugins import load_registry
from peftkit.testing import METHOD_CHECKS, NotSupportedError, check_method, check_round_trip, run_spec, tiny_model
from peftkit.testing.method_checks import check_new_head, check_reloads
from peftkit.testing.tiny_models import FAMILIES, head_parameters, save_tiny_model
from tests.conftest import slow_unless_quick

METHODS = {name: entry.component for name, entry in load_registry().all("method").items()}


def made(name: str) -> Method:
    """The method with options that suit a model of width 32."""
    component = METHODS[name]
    assert issubclass(component, Method)
    return component.model_validate(dict(component.tiny_options))


def reopen(model: nn.Module, folder: Path) -> nn.Module:
    """What each library's documentation says."""
    if (folder / "adapter_config.json").exists():
        return PeftModel.from_pretrained(model, folder)
    return type(model).from_pretrained(folder)


@pytest.mark.parametrize("name", METHODS)
def test_its_options_are_kept(name: str) -> None:
    check_round_trip(made(name))


@pytest.mark.parametrize("check", METHOD_CHECKS)
@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize("name", [*map(slow_unless_quick, METHODS)])
def test_it_does_what_it_says_or_says_why_not(name: str, architecture: str, check: str, tmp_path: Path) -> None:
    reason = ""
    try:
        METHOD_CHECKS[check](made(name), architecture, tmp_path / "saved")
    except NotSupportedError as refused:
        reason = str(refused)
    assert reason == "" or len(reason.split()) > 4


@pytest.mark.parametrize("name", [*map(slow_unless_quick, METHODS)])
def test_layers_that_hold_their_weights_transposed_are_known_or_refused(name: str, tmp_path: Path) -> None:
    try:
        check_method(made(name), "gpt2", tmp_path / "saved")
    except AssertionError:
        assert made(name).incompatible_with(run_spec("gpt2"))


@pytest.mark.parametrize("name", ["full", "lora", "vera", "prefix_tuning", "adalora", "ia3", "p_tuning", "boft"])
@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_its_own_library_opens_what_was_saved(name: str, architecture: str, tmp_path: Path) -> None:
    check_reloads(made(name), architecture, tmp_path / "saved", reopen)


ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2", "electra", "albert", "modernbert")
FEED_FORWARD = {"albert": "ffn_output", "distilbert": "lin2", "modernbert": "Wo"}
QUERY = {"distilbert": "q_lin", "modernbert": "Wqkv"}


def fitted(name: str, architecture: str) -> Method:
    """The method with options that suit the tiny encoder."""
    method = made(name)
    # peft knows no default modules for every encoder, IA3 asks which of them are feed-forward layers, Polytropon takes
    # rows of several positions only, and all layers of ALBERT share their weights.
    feed_forward = [FEED_FORWARD.get(architecture, "dense")]
    own: dict[str, dict[str, Any]] = {
        "ia3": {"target_modules": feed_forward, "feedforward_modules": feed_forward},
        "poly": {"target_modules": [QUERY.get(architecture, "query")]},
        "top_layers": {"number": 1},
    }
    options = {**METHODS[name].tiny_options, **own.get(name, {"target_modules": "all-linear"})}  # type: ignore[union-attr]
    suits = name != "top_layers" and not any(
        "target_modules" in reason for reason in method.incompatible_with(run_spec(architecture))
    )
    return method if suits else METHODS[name].model_validate(options)  # type: ignore[return-value]


def reopen_first_task(model: nn.Module, folder: Path) -> nn.Module:
    """peft's models of several tasks ask for the task's number in each pass; ours have one task."""
    opened = reopen(model, folder)
    opened.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "task_ids": torch.zeros(len(kwargs["input_ids"]), dtype=torch.long)}),
        with_kwargs=True,
    )
    return opened


@pytest.mark.parametrize("architecture", ENCODERS)
@pytest.mark.parametrize("name", [*map(slow_unless_quick, METHODS)])
def test_a_new_head_is_trained_and_given_back(name: str, architecture: str, tmp_path: Path) -> None:
    method = fitted(name, architecture)
    reasons = method.incompatible_with(run_spec(architecture))
    assert all(len(reason.split()) > 4 for reason in reasons)
    if reasons:
        return
    several = name in ("multitask_prompt_tuning", "poly")
    theirs = method.loaded_by in ("peft", "transformers")  # the library's own loader; else the method's
    check_new_head(
        method, architecture, tmp_path / "own", (reopen_first_task if several else reopen) if theirs else None
    )


@pytest.mark.parametrize("architecture", FAMILIES["encoder"])
def test_the_tiny_encoders_are_made_from_masked_language_models(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny_model(architecture, tmp_path)
    model, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    new = {name for name, _ in model.named_parameters()} & set(report["missing_keys"])
    assert new == set(head_parameters(architecture)) != set()
    with torch.no_grad():
        one, other = tiny_model(architecture), tiny_model(architecture, head_seed=1)
    for (name, parameter), same in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, same) == (name not in new)


def test_full_fine_tuning_refuses_nothing() -> None:
    for architecture in ("t5", "llama", "bert", "gpt2"):
        assert Full().incompatible_with(run_spec(architecture, gradient_checkpointing=True)) == []
