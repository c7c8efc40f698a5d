"""All methods of the distribution, in addition to the tests of every registered method."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import adapters
import pytest
import torch
from adapters.configuration import adapter_config
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from peftkit import Method, Range
from peftkit.components.options.option_docstrings import option_descriptions
from peftkit.errors import InputError
from peftkit.plugins import FIRST_PARTY, load_registry
from peftkit.testing import (
    apply_method,
    architecture_kind,
    batch,
    check_published_rates,
    conformance,
    context,
    logits,
    run_spec,
    train_on_batch,
)
from peftkit.testing.method_checks import check_new_head, check_reloads
from peftkit.testing.tiny_models import tiny_model
from peftkit.testing.tiny_training import tensors
from peftkit_adapters import ADAPTER, METHODS, AdapterMethod, adapter_method
from peftkit_adapters.config_options import config_options

BY_NAME = {str(method.model_fields["name"].default): method for method in METHODS}
OTHER = ("bart", "qwen2")
"""In addition to t5, llama, gpt2 and bert, on which every registered method is tested."""

RUNS = ("loreft", "compacter", "adapters_union")
TestOthers = pytest.mark.slow(conformance(*METHODS, architectures=OTHER, runs=False))
TestRuns = pytest.mark.slow(conformance(*(BY_NAME[name] for name in RUNS), architectures=("t5",)))
TestRunsOfAnEncoder = pytest.mark.slow(conformance(BY_NAME["unipelt"], architectures=("bert",)))


def method(name: str, **changes: Any) -> AdapterMethod:
    """A method with options that suit the tiny models."""
    return BY_NAME[name].model_validate({**BY_NAME[name].tiny_options, **changes})


def reopen(model: nn.Module, folder: Path) -> nn.Module:
    """Loads as the library documents it."""
    if "prefix_length" in (folder / "adapter_config.json").read_text():
        model.set_attn_implementation("eager")
    adapters.init(model)
    model.load_adapter(str(folder), set_active=True, use_safetensors=True)
    return model


def reopen_direft(model: nn.Module, folder: Path) -> nn.Module:
    """Load DiReFT as the README shows, because the library cannot load its configuration."""
    adapters.init(model)
    model.add_adapter(ADAPTER, config=adapters.DiReftConfig(), set_active=True)
    for file in folder.glob("*.safetensors"):
        model.load_state_dict(load_file(file), strict=False)
    return model


def able(name: str, architecture: str) -> bool:
    """Whether the method can be used on the tiny model."""
    return not method(name).incompatible_with(run_spec(architecture))


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "unipelt"])
def test_the_library_opens_saved_methods(name: str, architecture: str, tmp_path: Path) -> None:
    if able(name, architecture):
        check_reloads(method(name), architecture, tmp_path / "saved", reopen_direft if name == "direft" else reopen)
    else:
        assert name == "adapters_prompt_tuning"


ENCODERS = ("bert", "distilbert", "deberta-v2")
AT_NIGHT = ("roberta", "electra", "albert")
"""More encoders, which the library supports with the same code."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", [*ENCODERS, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in AT_NIGHT)]
)
@pytest.mark.parametrize("name", BY_NAME)
def test_a_new_head_is_trained_and_restored(name: str, architecture: str, tmp_path: Path) -> None:
    """The library restores the head; the tests of every registered method check the method itself."""
    if able(name, architecture):
        library = method(name).loaded_by == "adapters"
        assert library == (name not in ("direft", "unipelt"))
        if library:
            check_new_head(method(name), architecture, tmp_path / "library", reopen)
    else:
        assert architecture == "distilbert"


@pytest.mark.parametrize("architecture", ["t5", "bert"])
def test_adapters_saved_under_another_name_are_opened(architecture: str, tmp_path: Path) -> None:
    saved_model = tiny_model(architecture)
    adapters.init(saved_model)
    saved_model.add_adapter("other", config=adapters.LoRAConfig(r=4))
    saved_model.train_adapter("other")
    with torch.no_grad():
        for parameter in (p for p in saved_model.parameters() if p.requires_grad):
            parameter.normal_()
    saved_model.save_adapter(str(tmp_path), "other", use_safetensors=True)
    # The library trains and saves no pooler.
    opened = method("adapters_lora", r=4).apply(
        tiny_model(architecture), replace(context(architecture), head_parameters=())
    )
    method("adapters_lora", r=4).load(opened, tmp_path)
    torch.testing.assert_close(logits(opened, architecture), logits(saved_model, architecture), atol=1e-6, rtol=0)


def test_first_party_lists_every_method_of_the_distribution() -> None:
    registered = load_registry().all("method").values()
    assert {name for name, distribution in FIRST_PARTY.items() if distribution == "peftkit-adapters"} == {
        entry.name for entry in registered if entry.distribution == "peftkit-adapters"
    }


@pytest.mark.parametrize("name", BY_NAME)
def test_search_spaces_span_four_decades_and_the_published_rates(name: str) -> None:
    search_range = BY_NAME[name].search_space["train.learning_rate"]
    assert isinstance(search_range, Range)
    assert search_range.log
    assert math.log10(search_range.high / search_range.low) == pytest.approx(4)
    assert BY_NAME[name].published_rates
    check_published_rates(BY_NAME[name])
    for published in BY_NAME[name].published_rates:
        assert re.fullmatch(r"\S.* \((19|20)\d\d\b[^)]*\).*: \S.*", published.source)


@pytest.mark.parametrize(
    ("name", "peft_name"),
    [
        ("adapters_lora", "lora"),
        ("adapters_ia3", "ia3"),
        ("adapters_prefix_tuning", "prefix_tuning"),
        ("adapters_prompt_tuning", "prompt_tuning"),
    ],
)
def test_methods_that_peft_has_too_share_its_search_space(name: str, peft_name: str) -> None:
    other = load_registry().all("method")[peft_name].component
    assert issubclass(other, Method)
    component = BY_NAME[name]
    assert (component.search_space, component.published_rates) == (other.search_space, other.published_rates)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_option_is_described_and_known_to_the_library(name: str) -> None:
    component = method(name)
    assert [key for key, text in option_descriptions(type(component)).items() if key != "name" and not text] == []
    for part in component.parts():
        config, options = part.config(), part.options()
        assert options.keys() <= set(config)
        assert {key: config[key] for key in options} == options


def test_every_trainable_configuration_of_the_library_has_a_method() -> None:
    offered = {value for m in METHODS for value in (m.configuration, *getattr(m, "variants", {}).values())}
    declared = {n for n, c in vars(adapter_config).items() if isinstance(c, type) and n.endswith("Config")}
    left_out = {
        *("AdapterConfig", "BnConfig", "ReftConfig", "MultiTaskConfig"),  # base classes
        "DoRAConfig",  # adapters_lora with use_dora
        *("VeraConfig", "DvoRAConfig"),  # they train full matrices, unlike the paper
        "MTLLoRAConfig",  # for several tasks at once
    }
    assert offered - {"ConfigUnion"} == declared - left_out


def test_options_have_the_librarys_defaults() -> None:
    config = adapters.PrefixTuningConfig()
    for name, option in config_options("PrefixTuningConfig").items():
        value = config[name]
        assert option.default == value
    assert config_options("SeqBnConfig")["reduction_factor"].default == 16
    assert config_options("NoSuchConfig") == {}


@pytest.mark.parametrize("variant", ["pfeiffer", "houlsby"])
def test_variants_equal_the_librarys(variant: str) -> None:
    expected = adapters.SeqBnConfig() if variant == "pfeiffer" else adapters.DoubleSeqBnConfig()
    assert BY_NAME["bottleneck"].model_validate({"variant": variant}).config() == expected
    inverted = BY_NAME["invertible_bottleneck"].model_validate({"variant": variant}).config()
    assert inverted == (adapters.SeqBnInvConfig() if variant == "pfeiffer" else adapters.DoubleSeqBnInvConfig())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mam", adapters.MAMConfig()), ("unipelt", adapters.UniPELTConfig()), ("compacter", adapters.CompacterConfig())],
)
def test_default_configurations_equal_the_librarys(name: str, expected: Any) -> None:
    assert BY_NAME[name]().config() == expected


@pytest.mark.parametrize("architecture", ["t5", "llama", "bert"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bottleneck", {"variant": "houlsby", "scaling": "learned"}),
        ("invertible_bottleneck", {"variant": "houlsby"}),
        ("adapters_prefix_tuning", {"flat": True}),
        ("adapters_lora", {"use_dora": True}),
        ("adapters_lora", {"intermediate_lora": True, "output_lora": True, "attn_matrices": ("q", "k", "v")}),
        ("loreft", {"tied_weights": True}),
        ("compacter", {"shared_phm_rule": False, "factorized_phm_rule": True}),
    ],
    ids=str,
)
def test_variants_train_and_are_saved(name: str, changes: dict[str, Any], architecture: str, tmp_path: Path) -> None:
    check_reloads(method(name, **changes), architecture, tmp_path / "saved", reopen)


@pytest.mark.parametrize("architecture", ["t5", "llama", "gpt2", "bert"])
@pytest.mark.parametrize(
    "changes",
    [{"use_dora": True}, {"intermediate_lora": True, "output_lora": True, "attn_matrices": ("q", "k", "v")}],
    ids=str,
)
def test_merged_lora_has_no_modules_of_the_library(changes: dict[str, Any], architecture: str) -> None:
    component = method("adapters_lora", **changes)
    if architecture == "gpt2" and component.value("use_dora"):
        assert "leave out use_dora" in component.incompatible_with(run_spec(architecture))[0]
        return
    model = apply_method(component, architecture)
    train_on_batch(model, architecture, steps=2)
    before = logits(model.eval(), architecture)
    merged = component.merge(model)
    assert type(merged) is type(tiny_model(architecture))
    assert tensors(merged).keys() == tensors(tiny_model(architecture)).keys()
    torch.testing.assert_close(logits(merged.eval(), architecture), before, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_merged_ia3_scales_the_bias_too(architecture: str) -> None:
    component = method("adapters_ia3")
    model = apply_method(component, architecture)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_()
            elif ".loras." in name:
                parameter.uniform_(0.5, 2.0)
    before = logits(model.eval(), architecture)
    torch.testing.assert_close(logits(component.merge(model).eval(), architecture), before, atol=1e-4, rtol=1e-4)


def test_unipelt_gates_ignore_padding() -> None:
    model = apply_method(method("unipelt"), "bert").eval()
    train_on_batch(model, "bert", steps=2)
    model.eval()
    rows = {key: value for key, value in batch("bert").items() if key != "labels"}
    wider = {key: torch.cat([value, torch.zeros(4, 8, dtype=value.dtype)], 1) for key, value in rows.items()}
    torch.testing.assert_close(model(**wider).logits, model(**rows).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("bottleneck", {"mh_adapter": False, "output_adapter": False}, "nothing would be trained"),
        ("adapters_lora", {"selfattn_lora": False}, "nothing would be trained"),
        ("loreft", {"prefix_positions": 0}, "nothing would be trained"),
        ("adapters_lora", {"r": 0}, "greater than 0"),
        ("adapters_lora", {"attn_matrices": ("z",)}, "'q', 'k' or 'v'"),
        ("adapters_union", {"methods": [{"name": "bottleneck"}]}, "at least 2"),
        ("adapters_union", {"methods": [{"name": "loreft"}, {"name": "no_such"}]}, "no_such"),
        (
            "adapters_union",
            {"methods": [{"name": "loreft"}, {"name": "direft"}]},
            "both add interventions on hidden states",
        ),
        (
            "adapters_union",
            {"methods": [{"name": "bottleneck", "variant": "houlsby"}, {"name": "parallel_adapters"}]},
            "both add a bottleneck at the feed-forward layer",
        ),
    ],
    ids=str,
)
def test_invalid_options_are_rejected(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        method(name, **changes)


@pytest.mark.parametrize(
    ("name", "changes", "architecture", "words"),
    [
        ("unipelt", {}, "t5", "gates average over the whole text"),
        ("adapters_prompt_tuning", {}, "gpt2", "does not support prompt tuning of this model type"),
        ("mam", {}, "qwen2", "does not support prefix tuning of this model type"),
        ("adapter_plus", {}, "qwen2", "set original_ln_after = true"),
        ("bottleneck", {"cross_adapter": True}, "llama", "leave out cross_adapter"),
        ("loreft", {"suffix_positions": 1}, "llama", "set suffix_positions = 0"),
        ("adapter_plus", {"stochastic_depth": 0.1}, "t5", "needs torchvision"),
    ],
    ids=str,
)
def test_options_that_a_model_does_not_support_are_rejected(
    name: str, changes: dict[str, Any], architecture: str, words: str
) -> None:
    (reason,) = method(name, **changes).incompatible_with(run_spec(architecture))
    assert words in reason


@pytest.mark.parametrize(
    "name", [n for n, m in BY_NAME.items() if any(p.uses_forward_context for p in m(**m.tiny_options).parts())]
)
def test_methods_with_a_forward_context_reject_gradient_checkpointing(name: str) -> None:
    reasons = method(name).incompatible_with(run_spec("bert", gradient_checkpointing=True))
    assert any("gradient_checkpointing = false" in reason for reason in reasons)


def test_a_reduction_factor_of_an_unknown_block_is_rejected() -> None:
    with pytest.raises(InputError, match="reduction_factor names block '9', but the model has blocks 0 to 1"):
        apply_method(method("bottleneck", reduction_factor={"9": 4.0, "default": 8.0}), "bert")
    apply_method(method("bottleneck", reduction_factor={"1": 4.0, "default": 8.0}), "bert")


@pytest.mark.parametrize(("option", "name"), [("leave_out", "bottleneck"), ("layers", "loreft")])
def test_unknown_blocks_are_rejected(option: str, name: str) -> None:
    with pytest.raises(InputError, match=f"{option} names block 9, but the model has blocks 0 to 1"):
        apply_method(method(name, **{option: (0, 9)}), "llama")


def test_leaving_out_every_block_is_rejected() -> None:
    with pytest.raises(InputError, match="adds no trainable parameters to BertForSequenceClassification"):
        apply_method(method("bottleneck", leave_out=(0, 1)), "bert")


@pytest.mark.parametrize("name", BY_NAME)
def test_decoders_and_reft_generate_without_a_cache(name: str) -> None:
    for architecture in ("t5", "llama"):
        if able(name, architecture):
            expected = architecture_kind(architecture) == "encoder-decoder" and name not in (
                "loreft",
                "noreft",
                "direft",
            )
            assert apply_method(method(name), architecture).generation_config.use_cache == expected


def test_saved_files_include_shared_parameters(tmp_path: Path) -> None:
    """Compacter's shared parameters are outside T5's blocks; the library saves parameters by block name."""
    component = method("compacter")
    component.save(apply_method(component, "t5"), tmp_path)
    assert any(key.startswith("shared_parameters.") for key in load_file(tmp_path / "adapter.safetensors"))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["name"] == ADAPTER


def test_without_the_library_its_options_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_method, "config_options", lambda configuration: {})
    without = adapter_method.make_method(type(method("adapters_lora")).__bases__[0], "adapters_lora", "LoRA.")
    assert without.model_validate({"name": "adapters_lora", "r": 4}).model_dump() == {"name": "adapters_lora"}


@pytest.mark.parametrize("name", ["adapters_prefix_tuning", "mam"])
def test_a_prefix_uses_positions_of_a_decoder(name: str) -> None:
    method = BY_NAME[name](**BY_NAME[name].tiny_options)  # type: ignore[call-arg]
    assert method.virtual_tokens("encoder") == method.virtual_tokens("encoder-decoder") == {}
    model = tiny_model("gpt2", n_positions=43)
    left = 43 - method.virtual_tokens("decoder")["decoder"]
    adapted = method.apply(model, context("gpt2")).eval()
    ids = torch.ones(1, left, dtype=torch.long)
    with torch.no_grad():
        adapted(input_ids=ids, attention_mask=torch.ones_like(ids))
        longer = torch.ones(1, left + 1, dtype=torch.long)
        with pytest.raises(RuntimeError):
            adapted(input_ids=longer, attention_mask=torch.ones_like(longer))
