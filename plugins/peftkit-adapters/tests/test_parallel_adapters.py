from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, PackageNotFoundError
from pathlib import Path
from typing import Any

import adapters
import pytest
import torch
from adapters.wrappers.interfaces import CUSTOM_INTERFACES
from pydantic import ValidationError
from torch import nn

import peftkit_adapters
from peftkit import RunSpec
from peftkit.errors import InputError
from peftkit.plugins import load_registry
from peftkit.testing import (
    apply_method,
    architecture_kind,
    check_generation_matches_scores,
    check_gradient_checkpointing,
    check_method,
    context,
    logits,
    run_spec,
    train_on_batch,
    trained_tensors,
)
from peftkit.testing.tiny_models import head_parameters, tiny_model
from peftkit_adapters import ALTERED, METHODS, MODEL_TYPES, ParallelAdapters, adapter_method

ROOT = Path(__file__).parents[1]
NOT_TEXT = {"beit", "clip", "eat", "vit", "whisper"}


def reopen(model: nn.Module, folder: Path) -> nn.Module:
    """Loads as the library documents it."""
    adapters.init(model)
    model.load_adapter(str(folder), set_active=True, use_safetensors=True)
    return model


@pytest.mark.parametrize(
    "architecture",
    ["t5", "mt5", "bart", "llama", "qwen2", "gemma2", "gpt2", "bert", "roberta", "distilbert", "deberta-v2"],
)
def test_every_architecture_trains_and_is_saved(architecture: str, tmp_path: Path) -> None:
    check_method(ParallelAdapters(), architecture, tmp_path / "saved", reopen)


@pytest.mark.parametrize(
    "options",
    [
        {"reduction_factor": 2.0, "scaling": "learned"},
        {"scaling": "channel", "mh_adapter": True, "output_adapter": False},
        {"non_linearity": "gelu", "init_weights": "bert", "leave_out": (0,)},
        {"non_linearity": "leakyrelu", "init_weights": "houlsby", "scaling": 1.0},
    ],
    ids=str,
)
def test_every_variant_trains_and_is_saved(options: dict[str, object], tmp_path: Path) -> None:
    check_method(ParallelAdapters.model_validate(options), "t5", tmp_path / "saved", reopen)


@pytest.mark.parametrize("function", ["relu", "gelu", "gelu_new", "leakyrelu", "linear", "sigmoid", "silu", "tanh"])
def test_every_non_linearity_trains(function: str) -> None:
    options = {"non_linearity": function, "init_weights": "bert"}
    model = apply_method(ParallelAdapters.model_validate(options), "bert")
    assert train_on_batch(model, "bert", steps=2)[1] == []


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_gradient_checkpointing_changes_nothing(architecture: str, tmp_path: Path) -> None:
    check_gradient_checkpointing(ParallelAdapters(), architecture, tmp_path)


def test_merge_is_an_error() -> None:
    with pytest.raises(InputError, match="'parallel_adapters' cannot be merged: it does not update"):
        ParallelAdapters().merge(apply_method(ParallelAdapters(), "t5"))


@pytest.mark.parametrize("architecture", ["t5", "bart", "llama", "qwen2", "gemma2", "gpt2"])
def test_generation_matches_scores(architecture: str) -> None:
    model = apply_method(ParallelAdapters(), architecture)
    train_on_batch(model, architecture, steps=2)
    check_generation_matches_scores(model, architecture)
    assert model.generation_config.use_cache == (architecture_kind(architecture) != "decoder")


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert", "distilbert"])
def test_only_the_adapter_and_an_encoders_head_are_trained(architecture: str) -> None:
    model = apply_method(ParallelAdapters(), architecture)
    others = {name for name in trained_tensors(model) if f".adapters.{peftkit_adapters.ADAPTER}." not in name}
    assert others == set(head_parameters(architecture))
    adapter_size = sum(p.numel() for n, p in trained_tensors(model).items() if n not in others)
    layers = 4 if architecture_kind(architecture) == "encoder-decoder" else 2
    assert adapter_size == layers * (32 * 4 + 4 + 4 * 32 + 32)  # width 32, reduced by 8


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
def test_the_output_layer_is_saved_only_if_trained(architecture: str, tmp_path: Path) -> None:
    method = ParallelAdapters()
    method.save(apply_method(method, architecture), tmp_path)
    assert (tmp_path / "model_head.safetensors").exists() == (architecture_kind(architecture) == "encoder")


@pytest.mark.parametrize("architecture", ["t5", "bart", "llama", "gpt2", "bert"])
def test_the_untrained_adapter_does_not_change_the_output(architecture: str) -> None:
    model = apply_method(ParallelAdapters(), architecture)
    torch.testing.assert_close(
        logits(model, architecture), logits(tiny_model(architecture), architecture), atol=1e-5, rtol=0
    )


def test_weights_of_other_options_are_rejected(tmp_path: Path) -> None:
    ParallelAdapters().save(apply_method(ParallelAdapters(), "t5"), tmp_path)
    other = ParallelAdapters(leave_out=(0,))
    with pytest.raises(ValueError, match="do not match the model"):
        other.load(apply_method(other, "t5"), tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output_adapter": False}, "nothing would be trained"),
        ({"reduction_factor": 0.0}, "greater than 0"),
        ({"non_linearity": "no_such"}, "non_linearity"),
        ({"rank": 8}, "Extra inputs"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ParallelAdapters.model_validate(options)


def test_model_types_equal_those_of_the_library() -> None:
    folder = Path(adapters.__file__).parent / "models"
    modeling = {path.parent.name.replace("_", "-") for path in folder.glob("*/modeling_*.py")}
    mixed = {path.parent.name.replace("_", "-") for path in folder.glob("*/mixin_*.py")}
    # gemma3_text is written with an underscore, in transformers too.
    known = (modeling | mixed | set(CUSTOM_INTERFACES)) - NOT_TEXT - {"phi"}
    assert set(MODEL_TYPES) | set(ALTERED) == known
    assert not set(MODEL_TYPES) & set(ALTERED)


@pytest.mark.parametrize("architecture", ["ernie", "phi"])
def test_unsupported_model_types_are_rejected_and_fail(architecture: str) -> None:
    (reason,) = ParallelAdapters().incompatible_with(run_spec(architecture))
    assert "use one of albert, bart, bert" in reason
    with pytest.raises((InputError, TypeError), match=r"cannot be applied to Ernie|not NoneType"):
        train_on_batch(apply_method(ParallelAdapters(), architecture), architecture)


def test_deberta_is_rejected_as_the_library_changes_its_output() -> None:
    (reason,) = ParallelAdapters().incompatible_with(run_spec("deberta"))
    assert "before training" in reason
    changed = logits(apply_method(ParallelAdapters(), "deberta"), "deberta") - logits(tiny_model("deberta"), "deberta")
    assert changed.abs().max() > 1e-5


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"adapters": "1.3.0", "transformers": "5.23.0"}, "cannot be imported with 5.23.0; install peftkit-adapters"),
        ({"transformers": "4.57.6"}, "is not installed; install peftkit-adapters"),
    ],
)
def test_incompatible_versions_are_rejected_before_loading(
    versions: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(adapter_method, "version", version)
    monkeypatch.setitem(sys.modules, "adapters", None)  # importing it raises an ImportError
    (reason,) = ParallelAdapters().incompatible_with(RunSpec("decoder", "generation", False, "no"))
    assert words in reason
    with pytest.raises(InputError, match=re.escape(words)):
        ParallelAdapters().apply(tiny_model("llama"), context("llama"))


def test_a_hub_model_without_its_config_is_not_rejected() -> None:
    assert ParallelAdapters().incompatible_with(RunSpec(None, "generation", True, "bf16")) == []


def test_the_declared_entry_point_registers_it() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["peftkit"]
    points = [EntryPoint(name, value, "peftkit") for name, value in declared.items()]
    registry = load_registry(only=None, points=points)
    assert registry.failures == ()
    assert {entry.component for entry in registry.all("method", presets=False).values()} == set(METHODS)


def test_declared_packages_and_files_exist() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for package in declared["tool"]["setuptools"]["packages"]:
        assert (ROOT / package / "__init__.py").exists()
        assert importlib.util.find_spec(package) is not None
    assert (ROOT / "peftkit_adapters" / "py.typed").exists()
    assert (ROOT / declared["project"]["readme"]).exists()


def test_import_is_light() -> None:
    code = """
import sys, peftkit_adapters
peftkit_adapters.ParallelAdapters()
print(sorted({"torch", "transformers", "adapters"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
