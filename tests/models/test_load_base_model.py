"""Models are loaded as the recipe says, or rejected with an error."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from huggingface_hub.constants import HF_HUB_CACHE

from peftkit import Method
from peftkit.errors import ModelError, PluginError, RecipeError, RunError
from peftkit.models.load_base_model import apply_method, load_base
from peftkit.models.parameter_counts import count_parameters
from peftkit.plugins import Entry, Registry
from peftkit.recipe import load_recipe
from tests.tiny_runs import Make


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])  # with float16, transformers keeps parts of T5 in float32
@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
def test_models_have_the_dtype_of_the_recipe(make: Make, kind: str, dtype: str) -> None:
    base = load_base(make(kind, f"model.dtype={dtype}"))
    assert base.kind == kind
    assert {p.dtype for p in base.model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("name", ["pocket-t5", "pocket-decoder", "pocket-encoder"])
def test_built_in_models_load_by_name(make: Make, name: str) -> None:
    base = load_base(make("decoder", f"model.name={name}"))
    ids = base.family.tokenizer("a small dog of an old breed")["input_ids"]
    assert base.family.tokenizer.unk_token_id not in ids
    assert count_parameters(base.model)[1] > 1_000_000


def test_a_head_has_one_output_per_label(make: Make) -> None:
    base = load_base(make("encoder"))
    assert base.model.classifier.out_features == 3  # type: ignore[union-attr]
    assert base.model.config.id2label == {0: "red", 1: "green", 2: "blue"}  # type: ignore[union-attr]
    assert load_base(make("encoder", "task.name=colour_choice")).model.classifier.out_features == 1  # type: ignore[union-attr]


def test_pickled_weights_are_rejected(make: Make, models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(models["decoder"], folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot be loaded.*safetensors"):
        load_base(make("decoder", f"model.name={folder}"))


def test_cached_hub_models_are_loaded_offline(make: Make, models: dict[str, Path]) -> None:
    hub = Path(HF_HUB_CACHE)
    assert hub.is_relative_to(tempfile.gettempdir()), "the user's cache is not touched"
    folder, commit = hub / "models--someone--tiny", "0" * 40
    shutil.copytree(models["decoder"], folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    try:
        base = load_base(make("decoder", "model.name=someone/tiny"))
    finally:
        shutil.rmtree(folder)
    assert base.kind == "decoder"
    with pytest.raises(
        RunError, match=r"'someone/tiny' cannot be loaded: .*; download it .* \(hf download someone/tiny\)"
    ):
        load_base(make("decoder", "model.name=someone/tiny"))


def test_a_config_without_an_architecture_is_rejected(make: Make, models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "nameless"
    shutil.copytree(models["decoder"], folder)
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="has no architecture"):
        load_base(make("decoder", f"model.name={folder}"))


def test_conflicts_with_a_fetched_config_are_errors(
    make: Make, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The check has no config of a hub model; the runner does after fetching it.
    recipe = make("decoder", "task.name=colour_text")
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": "pocket-encoder"})})
    with pytest.raises(RecipeError, match="has no objective for a model of kind 'encoder'"):
        load_base(recipe)


class Idle(Method):
    """Trains nothing."""

    name: Literal["idle"] = "idle"

    def apply(self, model: Any, context: Any) -> Any:
        return model.requires_grad_(False)


def test_a_method_without_trainable_parameters_is_rejected(make: Make, registry: Registry, tmp_path: Path) -> None:
    make("decoder")
    known = Registry((*registry.entries, Entry("method", "idle", Idle, "tests", "0")))
    recipe = load_recipe(tmp_path / "recipe.toml", known, ["model.name=pocket-decoder", "method.name=idle"])
    with pytest.raises(RunError, match="trains none of the model's"):
        apply_method(recipe, load_base(recipe), None)


class Doubles(Method):
    """Wraps T5's feed-forward without passing on the weight."""

    name: Literal["doubles"] = "doubles"

    def apply(self, model: Any, context: Any) -> Any:
        for module in [module for module in model.modules() if hasattr(module, "wo")]:
            module.wo = torch.nn.Sequential(module.wo)
        return model


def test_a_wrapper_without_the_weight_that_t5_reads_is_rejected(make: Make, registry: Registry, tmp_path: Path) -> None:
    make("encoder-decoder")
    known = Registry((*registry.entries, Entry("method", "doubles", Doubles, "tests", "0")))
    recipe = load_recipe(tmp_path / "recipe.toml", known, ["model.name=pocket-t5", "method.name=doubles"])
    with pytest.raises(PluginError, match=r"'doubles' replaces encoder.*\.wo by a Sequential without .* which T5Dense"):
        apply_method(recipe, load_base(recipe), None)


# ---- quantized models


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantised_model_needs_a_gpu(bits: str, make: Make) -> None:
    recipe = make("decoder", "method.name=lora", f"model.quantization={bits}")
    with pytest.raises(RunError, match=f"model.quantization = '{bits}' needs a GPU"):
        load_base(recipe)


def test_missing_bitsandbytes_is_an_error_with_the_install_command(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("peftkit.distributed.device_requirements.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"pip install 'peftkit\[quant\]'"):
        load_base(make("decoder", "method.name=lora", "model.quantization=4bit"))


@pytest.mark.parametrize(("bits", "key"), [("4bit", "load_in_4bit"), ("8bit", "load_in_8bit")])
def test_quantization_options_are_passed_to_transformers(
    bits: str, key: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: dict[str, Any] = {}

    def loaded(path: str, **options: Any) -> Any:
        passed.update(options)
        raise OSError("stop here")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("peftkit.distributed.device_requirements.find_spec", lambda name: True)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loaded)
    recipe = make("decoder", "method.name=lora", f"model.quantization={bits}")
    installed = importlib.metadata.version  # transformers 4 asks for the version of bitsandbytes
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.0" if name == "bitsandbytes" else installed(name)
    )
    with pytest.raises(ModelError, match="stop here"):
        load_base(recipe)
    assert getattr(passed["quantization_config"], key)
    assert passed["device_map"] == {"": 0}


@pytest.mark.parametrize("method", ["full", "boft", "layer_norm"])
def test_methods_that_change_base_weights_reject_quantization(method: str, make: Make) -> None:
    with pytest.raises(RecipeError, match=r"does not support 4-bit weights; remove model\.quantization"):
        make("decoder", f"method.name={method}", "model.quantization=4bit")
    assert make("decoder", "method.name=prompt_tuning", "model.quantization=4bit").model.quantization == "4bit"


def test_packed_4_bit_weights_count_as_two_parameters_per_byte() -> None:
    class Params4bit(torch.nn.Parameter):
        pass

    module = torch.nn.Module()
    module.weight = Params4bit(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    assert count_parameters(module) == (0, 16)
