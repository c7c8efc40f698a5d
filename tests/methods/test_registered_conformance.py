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
from tests.conftest import QUICK, slow_unless_quick

METHODS = {name: entry.component for name, entry in load_registry().all("method", presets=False).items()}


def tiny_method(name: str) -> Method:
    """The method with options for the tiny models."""
    component = METHODS[name]
    assert issubclass(component, Method)
    return component.model_validate(dict(component.tiny_options))


def reopen(model: nn.Module, folder: Path) -> nn.Module:
    """Loads as each library documents it."""
    if (folder / "adapter_config.json").exists():
        return PeftModel.from_pretrained(model, folder)
    return type(model).from_pretrained(folder)


@pytest.mark.parametrize("name", METHODS)
def test_options_round_trip(name: str) -> None:
    check_round_trip(tiny_method(name))


def one_line_unless_quick(method: str, *others: str) -> Any:
    """Test parameters that start with the method, marked one_line if it is built in and not quick."""
    marks = [] if method in QUICK else [pytest.mark.slow]
    built_in = METHODS[method].__module__.startswith("peftkit.")
    return pytest.param(method, *others, marks=[*marks, pytest.mark.one_line] if marks and built_in else marks)


TORCH_CHECKS = ("counts", "mixed_precision")
"""Checks of how torch counts and computes a method's operations, which trains on both versions in other checks. Quick
methods and those of plugins show on both that the architectures can be counted and computed."""
CASES = [
    one_line_unless_quick(name, architecture, check)
    if check in TORCH_CHECKS or architecture != "t5"  # quick methods meet all architectures on both versions
    else pytest.param(name, architecture, check, marks=() if name in QUICK else pytest.mark.slow)
    for name in METHODS
    for architecture in ("t5", "llama", "bert")
    for check in METHOD_CHECKS  # innermost, because the checks share a trained model
]


@pytest.mark.parametrize(("name", "architecture", "check"), CASES)
def test_methods_pass_every_check_or_give_a_reason(name: str, architecture: str, check: str, tmp_path: Path) -> None:
    reason = ""
    try:
        METHOD_CHECKS[check](tiny_method(name), architecture, tmp_path / "saved")
    except NotSupportedError as refused:
        reason = str(refused)
    assert reason == "" or len(reason.split()) > 4


@pytest.mark.parametrize("name", [*map(slow_unless_quick, METHODS)])
def test_transposed_layers_are_supported_or_incompatible(name: str, tmp_path: Path) -> None:
    try:
        check_method(tiny_method(name), "gpt2", tmp_path / "saved")
    except AssertionError:
        assert tiny_method(name).incompatible_with(run_spec("gpt2"))


@pytest.mark.parametrize("name", ["full", "lora", "vera", "prefix_tuning", "adalora", "ia3", "p_tuning", "boft"])
@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_the_library_opens_saved_methods(name: str, architecture: str, tmp_path: Path) -> None:
    check_reloads(tiny_method(name), architecture, tmp_path / "saved", reopen)


ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2", "electra", "albert", "modernbert")
FEED_FORWARD = {"albert": "ffn_output", "distilbert": "lin2", "modernbert": "Wo"}
QUERY = {"distilbert": "q_lin", "modernbert": "Wqkv"}


def fitted(name: str, architecture: str) -> Method:
    """The method with options for the tiny encoder."""
    method = tiny_method(name)
    # peft lacks default modules for some encoders, IA3 needs the names of feed-forward layers, Polytropon takes
    # rows of several positions only, and all layers of ALBERT share their weights.
    feed_forward = [FEED_FORWARD.get(architecture, "dense")]
    overrides: dict[str, dict[str, Any]] = {
        "ia3": {"target_modules": feed_forward, "feedforward_modules": feed_forward},
        "poly": {"target_modules": [QUERY.get(architecture, "query")]},
        "top_layers": {"number": 1},
    }
    options = {**METHODS[name].tiny_options, **overrides.get(name, {"target_modules": "all-linear"})}  # type: ignore[union-attr]
    suits = name != "top_layers" and not any(
        "target_modules" in reason for reason in method.incompatible_with(run_spec(architecture))
    )
    return method if suits else METHODS[name].model_validate(options)  # type: ignore[return-value]


def reopen_first_task(model: nn.Module, folder: Path) -> nn.Module:
    """Adds task ids, which peft's multi-task methods need in each forward pass."""
    opened = reopen(model, folder)
    opened.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "task_ids": torch.zeros(len(kwargs["input_ids"]), dtype=torch.long)}),
        with_kwargs=True,
    )
    return opened


HEADS = ("deberta-v2", "modernbert")
"""Encoders on which CI trains new heads with all methods; the others follow at night, but for quick methods."""
PAIRS = [
    pair
    if name in QUICK or architecture in HEADS
    else pytest.param(*pair.values, marks=[*pair.marks, pytest.mark.exhaustive])
    for name in METHODS
    for architecture in ENCODERS
    for pair in [one_line_unless_quick(name, architecture)]
]


# A built-in method that is not quick meets the second version of transformers in the check ``new_head``.
@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_a_new_head_is_trained_and_restored(name: str, architecture: str, tmp_path: Path) -> None:
    method = fitted(name, architecture)
    reasons = method.incompatible_with(run_spec(architecture))
    assert all(len(reason.split()) > 4 for reason in reasons)
    if reasons:
        return
    multi_task = name in ("multitask_prompt_tuning", "poly")
    by_library = method.loaded_by in ("peft", "transformers")  # with the library's loader, otherwise with the method's
    check_new_head(
        method, architecture, tmp_path / "own", (reopen_first_task if multi_task else reopen) if by_library else None
    )


@pytest.mark.parametrize("architecture", FAMILIES["encoder"])
def test_tiny_encoders_have_new_heads(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny_model(architecture, tmp_path)
    model, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    new = {name for name, _ in model.named_parameters()} & set(report["missing_keys"])
    assert new == set(head_parameters(architecture)) != set()
    with torch.no_grad():
        one, other = tiny_model(architecture), tiny_model(architecture, head_seed=1)
    for (name, parameter), same in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, same) == (name not in new)


def test_full_fine_tuning_has_no_incompatibilities() -> None:
    for architecture in ("t5", "llama", "bert", "gpt2"):
        assert Full().incompatible_with(run_spec(architecture, gradient_checkpointing=True)) == []
