"""Built-in presets: what peft builds from each, on models of all three kinds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError
from torch import nn

from peftkit import Method
from peftkit.methods.lora import Lora
from peftkit.methods.presets import PRESETS, presets
from peftkit.plugins import load_registry
from peftkit.recipe import load_recipe
from peftkit.testing import METHOD_CHECKS, batch, check_published_rates, context, logits, run_spec, tiny_model

CLASSES: dict[str, Any] = {
    name: entry.component for name, entry in load_registry("").all("method").items() if entry.preset
}
ARCHITECTURES = ("t5", "llama", "bert")
EACH = pytest.mark.parametrize("name", CLASSES)
OF_LORA = [preset.name for preset in PRESETS if preset.method == "lora" and preset.name != "loftq"]
"""LoftQ needs a GPU; tests of LoRA's variants pretend that there is one."""
EACH_OF_LORA = pytest.mark.parametrize("name", OF_LORA)


def apply(name: str, architecture: str, **options: Any) -> nn.Module:
    """The model with the preset, which gets the test batch as training rows."""
    row = batch(architecture)
    if architecture == "t5":
        row["decoder_input_ids"] = row["labels"].roll(1, 1)
    rows = replace(context(architecture), batches=lambda number: [dict(row)] * min(4, number))
    model: nn.Module = CLASSES[name](**options).apply(tiny_model(architecture), rows)
    return model


def config(model: Any) -> Any:
    """The configuration that peft was given."""
    return model.peft_config["default"]


def test_no_preset_has_the_name_of_a_method() -> None:
    assert list(presets()) == list(PRESETS)
    assert {preset.name for preset in PRESETS} == set(CLASSES)
    assert not set(CLASSES) & load_registry("").all("method", presets=False).keys()


EXPECTED: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True, "use_rslora": False, "init_lora_weights": True},
    "rslora": {"use_rslora": True, "use_dora": False},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "eva": {"init_lora_weights": "eva"},
    "mica": {"init_lora_weights": "mica"},
    "lora_plus": {"use_dora": False, "use_rslora": False, "init_lora_weights": True},
    "kasa": {"init_lora_weights": True},
    "monteclora": {"init_lora_weights": True},
    "lora_fa": {"init_lora_weights": True, "use_dora": False},
    "riemannian_lora": {"init_lora_weights": True, "use_dora": False},
    "velora": {"init_lora_weights": True},
    "qlora": {"init_lora_weights": True, "use_dora": False},
}


def test_the_expectations_are_of_all_presets_of_lora() -> None:
    assert set(EXPECTED) == set(OF_LORA)


@EACH_OF_LORA
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_peft_gets_what_the_name_means(name: str, architecture: str) -> None:
    built = config(apply(name, architecture))
    assert type(built).__name__ == "LoraConfig"
    assert {key: getattr(built, key) for key in EXPECTED[name]} == EXPECTED[name]
    for key in ("eva_config", "kasa_config", "monteclora_config", "velora_config"):
        assert (getattr(built, key) is not None) == (key == f"{name}_config"), key


def test_eva_and_kasa_have_the_papers_values() -> None:
    assert config(apply("eva", "llama")).eva_config.rho == 2.0
    kasa = config(apply("kasa", "llama")).kasa_config
    assert (kasa.beta, kasa.gamma) == (1e-4, 1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dora_trains_magnitudes_and_rslora_scales_by_the_root(architecture: str) -> None:
    names = [n for n, p in apply("dora", architecture).named_parameters() if p.requires_grad]
    assert any("lora_magnitude_vector" in n for n in names)
    layers = [m for m in apply("rslora", architecture, r=16).modules() if isinstance(m, LoraLayer)]
    assert {layer.scaling["default"] for layer in layers} == {8 / 16**0.5}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_pissa_and_olora_change_the_weights_and_not_the_outputs(name: str, architecture: str) -> None:
    base, adapted = tiny_model(architecture), apply(name, architecture)
    torch.testing.assert_close(logits(adapted, architecture), logits(base, architecture), atol=1e-4, rtol=1e-3)
    before = dict(base.named_parameters())
    moved = [
        n
        for n, p in adapted.named_parameters()
        if n.endswith("base_layer.weight")
        and not torch.equal(p, before[n.removeprefix("base_model.model.").replace(".base_layer", "")])
    ]
    assert moved


def test_mica_trains_one_matrix_of_each_layer() -> None:
    names = [n for n, p in apply("mica", "llama").named_parameters() if p.requires_grad]
    assert names
    assert all(".lora_A." in n for n in names)


def test_lora_plus_trains_the_second_matrix_faster() -> None:
    method = CLASSES["lora_plus"]()
    assert (method.lr_multiplier("q.lora_A.default.weight"), method.lr_multiplier("q.lora_B.default.weight")) == (1, 16)
    assert CLASSES["lora_plus"](loraplus_lr_ratio=4).lr_multiplier("q.lora_B.default.weight") == 4
    with pytest.raises(ValidationError, match=r"'lora_plus' with loraplus_lr_ratio = 1\.0 is plain lora"):
        CLASSES["lora_plus"](loraplus_lr_ratio=1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_qlora_adapts_all_linear_layers_of_a_quantized_model(architecture: str) -> None:
    layers = {
        n.split(".lora_A")[0].rsplit(".", 1)[1]
        for n, _ in apply("qlora", architecture).named_modules()
        if n.endswith("lora_A")
    }
    assert {"dense", "query", "key", "value"} == layers if architecture == "bert" else len(layers) >= 6
    assert CLASSES["qlora"].recipe_keys == {"model.quantization": "4bit"}
    assert CLASSES["qlora"]().incompatible_with(run_spec(architecture)) == []


@EACH
def test_a_fixed_option_cannot_be_contradicted(name: str) -> None:
    [preset] = [each for each in PRESETS if each.name == name]
    for option, value in preset.fixed.items():
        other = not value if isinstance(value, bool) else Lora.model_fields[option].default
        with pytest.raises(ValidationError, match=re.escape(f"{name!r} is {preset}; leave {option} out, or use")):
            CLASSES[name](**{option: other})
        assert getattr(CLASSES[name](**{option: value}), option) == value


@EACH_OF_LORA
def test_a_preset_of_lora_takes_its_options(name: str) -> None:
    assert CLASSES[name](r=4, dropout=0.5).lora_dropout == 0.5


@EACH
def test_the_preset_equals_its_method_with_these_options(name: str) -> None:
    [preset] = [each for each in PRESETS if each.name == name]
    base: Any = load_registry("").all("method")[preset.method].component
    method = base.model_validate_json(json.dumps({**preset.fixed, **preset.defaults}), strict=True)
    assert CLASSES[name]().model_dump(exclude={"name"}) == method.model_dump(exclude={"name"})


@EACH
def test_published_rates_are_its_own_and_inside_the_range(name: str) -> None:
    [preset] = [each for each in PRESETS if each.name == name]
    base = load_registry("").all("method")[preset.method].component
    assert issubclass(base, Method)
    assert CLASSES[name].published_rates
    assert (CLASSES[name].published_rates == base.published_rates) == (not preset.settings)
    check_published_rates(CLASSES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OF_LORA if name != "eva"])  # tests of lora train it on rows
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("check", ["trains", "reloads"])
def test_presets_train_and_reload(name: str, architecture: str, check: str, tmp_path: Path) -> None:
    METHOD_CHECKS[check](CLASSES[name](), architecture, tmp_path / "saved")


def test_a_recipe_by_the_presets_name_builds_the_method(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_topic"\n[method]\nname = "dora"\nr = 4\n')
    method: Any = load_recipe(file, load_registry("")).method
    assert isinstance(method, Method)
    assert isinstance(method, Lora)
    assert (method.name, method.r, method.use_dora) == ("dora", 4, True)
    model: Any = method.apply(tiny_model("t5"), context("t5"))
    assert model.peft_config["default"].use_dora
